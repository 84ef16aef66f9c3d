"""Class names of published weights, in the order of their scores."""

_COCO = """
    person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign;
    parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella;
    handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove;
    skateboard; surfboard; tennis racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple;
    sandwich; orange; broccoli; carrot; hot dog; pizza; donut; cake; chair; couch; potted plant; bed; dining
    table; toilet; tv; laptop; mouse; remote; keyboard; cell phone; microwave; oven; toaster; sink;
    refrigerator; book; clock; vase; scissors; teddy bear; hair drier; toothbrush
"""
# In the order of the category ids, which start at 1.
_OBJECTS365 = """
    Person; Sneakers; Chair; Other Shoes; Hat; Car; Lamp; Glasses; Bottle; Desk; Cup; Street Lights;
    Cabinet/shelf; Handbag/Satchel; Bracelet; Plate; Picture/Frame; Helmet; Book; Gloves; Storage box; Boat;
    Leather Shoes; Flower; Bench; Potted Plant; Bowl/Basin; Flag; Pillow; Boots; Vase; Microphone; Necklace;
    Ring; SUV; Wine Glass; Belt; Moniter/TV; Backpack; Umbrella; Traffic Light; Speaker; Watch; Tie; Trash bin
    Can; Slippers; Bicycle; Stool; Barrel/bucket; Van; Couch; Sandals; Bakset; Drum; Pen/Pencil; Bus; Wild Bird;
    High Heels; Motorcycle; Guitar; Carpet; Cell Phone; Bread; Camera; Canned; Truck; Traffic cone; Cymbal;
    Lifesaver; Towel; Stuffed Toy; Candle; Sailboat; Laptop; Awning; Bed; Faucet; Tent; Horse; Mirror; Power
    outlet; Sink; Apple; Air Conditioner; Knife; Hockey Stick; Paddle; Pickup Truck; Fork; Traffic Sign; Ballon;
    Tripod; Dog; Spoon; Clock; Pot; Cow; Cake; Dinning Table; Sheep; Hanger; Blackboard/Whiteboard; Napkin;
    Other Fish; Orange/Tangerine; Toiletry; Keyboard; Tomato; Lantern; Machinery Vehicle; Fan; Green Vegetables;
    Banana; Baseball Glove; Airplane; Mouse; Train; Pumpkin; Soccer; Skiboard; Luggage; Nightstand; Tea pot;
    Telephone; Trolley; Head Phone; Sports Car; Stop Sign; Dessert; Scooter; Stroller; Crane; Remote;
    Refrigerator; Oven; Lemon; Duck; Baseball Bat; Surveillance Camera; Cat; Jug; Broccoli; Piano; Pizza;
    Elephant; Skateboard; Surfboard; Gun; Skating and Skiing shoes; Gas stove; Donut; Bow Tie; Carrot; Toilet;
    Kite; Strawberry; Other Balls; Shovel; Pepper; Computer Box; Toilet Paper; Cleaning Products; Chopsticks;
    Microwave; Pigeon; Baseball; Cutting/chopping Board; Coffee Table; Side Table; Scissors; Marker; Pie;
    Ladder; Snowboard; Cookies; Radiator; Fire Hydrant; Basketball; Zebra; Grape; Giraffe; Potato; Sausage;
    Tricycle; Violin; Egg; Fire Extinguisher; Candy; Fire Truck; Billards; Converter; Bathtub; Wheelchair; Golf
    Club; Briefcase; Cucumber; Cigar/Cigarette; Paint Brush; Pear; Heavy Truck; Hamburger; Extractor; Extention
    Cord; Tong; Tennis Racket; Folder; American Football; earphone; Mask; Kettle; Tennis; Ship; Swing; Coffee
    Machine; Slide; Carriage; Onion; Green beans; Projector; Frisbee; Washing Machine/Drying Machine; Chicken;
    Printer; Watermelon; Saxophone; Tissue; Toothbrush; Ice cream; Hotair ballon; Cello; French Fries; Scale;
    Trophy; Cabbage; Hot dog; Blender; Peach; Rice; Wallet/Purse; Volleyball; Deer; Goose; Tape; Tablet;
    Cosmetics; Trumpet; Pineapple; Golf Ball; Ambulance; Parking meter; Mango; Key; Hurdle; Fishing Rod; Medal;
    Flute; Brush; Penguin; Megaphone; Corn; Lettuce; Garlic; Swan; Helicopter; Green Onion; Sandwich; Nuts;
    Speed Limit Sign; Induction Cooker; Broom; Trombone; Plum; Rickshaw; Goldfish; Kiwi fruit; Router/modem;
    Poker Card; Toaster; Shrimp; Sushi; Cheese; Notepaper; Cherry; Pliers; CD; Pasta; Hammer; Cue; Avocado;
    Hamimelon; Flask; Mushroon; Screwdriver; Soap; Recorder; Bear; Eggplant; Board Eraser; Coconut; Tape Measur/
    Ruler; Pig; Showerhead; Globe; Chips; Steak; Crosswalk Sign; Stapler; Campel; Formula 1; Pomegranate;
    Dishwasher; Crab; Hoverboard; Meat ball; Rice Cooker; Tuba; Calculator; Papaya; Antelope; Parrot; Seal;
    Buttefly; Dumbbell; Donkey; Lion; Urinal; Dolphin; Electric Drill; Hair Dryer; Egg tart; Jellyfish;
    Treadmill; Lighter; Grapefruit; Game board; Mop; Radish; Baozi; Target; French; Spring Rolls; Monkey;
    Rabbit; Pencil Case; Yak; Red Cabbage; Binoculars; Asparagus; Barbell; Scallop; Noddles; Comb; Dumpling;
    Oyster; Table Teniis paddle; Cosmetics Brush/Eyeliner Pencil; Chainsaw; Eraser; Lobster; Durian; Okra;
    Lipstick; Cosmetics Mirror; Curling; Table Tennis
"""
# Category ids without a COCO class.
_UNUSED_COCO_IDS = frozenset((0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


def _split_names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(";"))


COCO = _split_names(_COCO)
OBJECTS365 = _split_names(_OBJECTS365)

# COCO class -> the Objects365 class that the authors of D-FINE and DEIM map to it, where the names differ.
COCO_AS_OBJECTS365 = {
    "bird": "Wild Bird",
    "handbag": "Handbag/Satchel",
    "suitcase": "Luggage",
    "skis": "Skating and Skiing shoes",
    "sports ball": "Baseball",
    "bowl": "Bowl/Basin",
    "orange": "Orange/Tangerine",
    "dining table": "Dinning Table",
    "tv": "Moniter/TV",
    "teddy bear": "Stuffed Toy",
    "hair drier": "Hair Dryer",
}


def _coco_by_id() -> tuple[str, ...]:
    """Return one name for each category id up to the largest, as in DETR; unused ids have an empty name."""
    names = iter(COCO)
    return tuple("" if number in _UNUSED_COCO_IDS else next(names) for number in range(91))


# Class lists by length, for weights that do not name their classes.
CLASSES_BY_COUNT: dict[int, tuple[str, ...]] = {
    80: COCO,
    91: _coco_by_id(),
    365: OBJECTS365,
    366: ("", *OBJECTS365),
}
