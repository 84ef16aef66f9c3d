// Detects objects in a PNG image with an exported file (interface "deim"), without Python:
//   detect model.onnx image.png [threshold]
// With a build for OpenVINO, also .xml files. Prints class index, score, left, top, right and bottom in pixels.
#include <onnxruntime_cxx_api.h>
#include <png.h>
#ifdef WITH_OPENVINO
#include <openvino/openvino.hpp>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> pixels;  // RGB, row by row
};

struct Detections {
  std::vector<float> scores, boxes;  // boxes: left, top, right, bottom, relative to the image
  std::vector<int64_t> labels;
};

Image read_png(const char* path) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&png, path)) throw std::runtime_error(std::string(path) + ": " + png.message);
  png.format = PNG_FORMAT_RGB;
  Image image{int(png.width), int(png.height), std::vector<uint8_t>(PNG_IMAGE_SIZE(png))};
  if (!png_image_finish_read(&png, nullptr, image.pixels.data(), 0, nullptr))
    throw std::runtime_error(std::string(path) + ": " + png.message);
  return image;
}

// Resamples the columns of a channel with a triangle filter, which covers all pixels when it shrinks; returns the transpose.
std::vector<float> resample(const std::vector<float>& values, int rows, int columns, int target) {
  std::vector<float> result(size_t(rows) * target);
  const float scale = float(columns) / target, support = std::max(scale, 1.0f);
  for (int t = 0; t < target; ++t) {
    const float center = (t + 0.5f) * scale;
    const int first = std::max(int(center - support + 0.5f), 0), last = std::min(int(center + support + 0.5f), columns);
    std::vector<float> weights;
    float sum = 0;
    for (int c = first; c < last; ++c) {
      weights.push_back(std::max(0.0f, 1 - std::abs(c + 0.5f - center) / support));
      sum += weights.back();
    }
    for (int r = 0; r < rows; ++r) {
      float value = 0;
      for (int c = first; c < last; ++c) value += weights[c - first] * values[size_t(r) * columns + c];
      result[size_t(t) * rows + r] = value / sum;
    }
  }
  return result;
}

// Returns the input of the file: (3, height, width), RGB, from 0 to 255. The file normalizes.
std::vector<uint8_t> network_input(const Image& image, int height, int width) {
  if (height <= 0 || width <= 0) throw std::runtime_error("the image size is dynamic: export without --dynamic-size");
  std::vector<uint8_t> input;
  for (int channel = 0; channel < 3; ++channel) {
    std::vector<float> values;
    for (size_t i = channel; i < image.pixels.size(); i += 3) values.push_back(image.pixels[i]);
    const auto columns = resample(values, image.height, image.width, width);
    for (float value : resample(columns, width, image.height, height)) input.push_back(uint8_t(std::lround(value)));
  }
  return input;
}

Detections run_onnx(const char* path, const Image& image) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "detect");
  Ort::Session session(env, path, Ort::SessionOptions());
  const Ort::TypeInfo info = session.GetInputTypeInfo(0);
  std::vector<int64_t> shape = info.GetTensorTypeAndShapeInfo().GetShape();
  shape[0] = 1;
  auto input = network_input(image, int(shape[2]), int(shape[3]));
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto tensor = Ort::Value::CreateTensor<uint8_t>(memory, input.data(), input.size(), shape.data(), shape.size());
  const char* inputs[] = {"images"};
  const char* outputs[] = {"scores", "labels", "boxes"};
  auto values = session.Run(Ort::RunOptions(), inputs, &tensor, 1, outputs, 3);
  const size_t count = values[0].GetTensorTypeAndShapeInfo().GetElementCount();
  const float *scores = values[0].GetTensorData<float>(), *boxes = values[2].GetTensorData<float>();
  const int64_t* labels = values[1].GetTensorData<int64_t>();
  return {{scores, scores + count}, {boxes, boxes + 4 * count}, {labels, labels + count}};
}

Detections run_openvino([[maybe_unused]] const char* path, [[maybe_unused]] const Image& image) {
#ifdef WITH_OPENVINO
  ov::Core core;
  // The default is bfloat16 on processors that support it, which loses detections.
  auto model = core.compile_model(path, "CPU", ov::hint::inference_precision(ov::element::f32));
  const ov::PartialShape shape = model.input().get_partial_shape();
  const int height = int(shape[2].get_max_length()), width = int(shape[3].get_max_length());
  auto input = network_input(image, height, width);
  auto request = model.create_infer_request();
  request.set_input_tensor(ov::Tensor(ov::element::u8, {1, 3, size_t(height), size_t(width)}, input.data()));
  request.infer();
  const size_t count = request.get_tensor("scores").get_size();
  const float *scores = request.get_tensor("scores").data<float>(), *boxes = request.get_tensor("boxes").data<float>();
  const int64_t* labels = request.get_tensor("labels").data<int64_t>();
  return {{scores, scores + count}, {boxes, boxes + 4 * count}, {labels, labels + count}};
#else
  throw std::runtime_error("built without OpenVINO: configure with -DWITH_OPENVINO=ON");
#endif
}

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: detect model.onnx|model.xml image.png [threshold]");
  const float threshold = argc > 3 ? float(std::atof(argv[3])) : 0.4f;
  const char* suffix = std::strrchr(argv[1], '.');
  const Image image = read_png(argv[2]);
  const bool is_xml = suffix != nullptr && std::strcmp(suffix, ".xml") == 0;
  const Detections found = is_xml ? run_openvino(argv[1], image) : run_onnx(argv[1], image);
  for (size_t i = 0; i < found.scores.size() && found.scores[i] >= threshold; ++i) {
    const float* box = &found.boxes[4 * i];
    std::printf("%d %.4f %.1f %.1f %.1f %.1f\n", int(found.labels[i]), found.scores[i], box[0] * image.width,
                box[1] * image.height, box[2] * image.width, box[3] * image.height);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
