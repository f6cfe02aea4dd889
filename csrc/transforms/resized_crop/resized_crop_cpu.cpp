// Crop, resize, flip, scale and normalise in one pass, on the CPU: rows of all images are split over threads, and each
// thread resamples its rows strip by strip (resized_crop_resampler.h).
//
// uint8 images are resampled by integer weights, with both passes rounded to uint8, as torch does: to the bit. These
// weights are summed in float where that is exact, which is faster, and in int32 where it is not.
#include "abi/registration.h"
#include "resized_crop_copy.h"
#include "resized_crop_resampler.h"
#include "resized_crop_taps.h"

namespace handgrad::resized_crop {
namespace {

// The boxes of a call, which must lie in their images.
BoxTable checked_boxes(const Arguments& arguments, const Geometry& geometry) {
  const BoxTable table = box_table(arguments);
  for (int64_t n = 0; table.boxes && n < geometry.batch; ++n) {
    HANDGRAD_CHECK(table.is_inside(n, geometry.height, geometry.width), kOp, ": boxes must lie in the image of ",
                   geometry.height, " x ", geometry.width, " pixels; got top, left, height, width ", table.at(n, 0),
                   ", ", table.at(n, 1), ", ", table.at(n, 2), ", ", table.at(n, 3), " in row ", n);
  }
  return table;
}

template <class Byte>
Pixels<Byte> pixels_of(Byte* data, const Tensor& tensor, int64_t n) {
  const Sizes strides = tensor.strides();
  Pixels<Byte> pixels{data, tensor.scalar_type(), strides[1], strides[2], strides[3]};
  pixels.data += n * strides[0] * pixels.element();
  return pixels;
}
Source source_of(const Tensor& tensor, int64_t n) {
  return pixels_of(static_cast<const unsigned char*>(tensor.const_data_ptr()), tensor, n);
}
Target target_of(const Tensor& tensor, int64_t n) {
  return pixels_of(static_cast<unsigned char*>(tensor.mutable_data_ptr()), tensor, n);
}

// Both tables of an image, summed in C.
template <class C>
struct Tables {
  AxisTaps<C> columns, rows;
};

// Rows [begin, end) of image n.
template <class E, class C, class F>
void resample(const Tables<C>& tables, const Geometry& geometry, const Normalisation<F>& normalisation,
              const Source& source, const Target& target, int64_t begin, int64_t end) {
  Resampler<E, C, F>(geometry.channels, tables.columns, tables.rows, normalisation).run(source, target, begin, end);
}

// The same of an image of floating-point numbers or of uint8, or a copy of it.
template <class F>
class Image {
 public:
  Image(const Geometry& geometry, const Box& box, ScalarType dtype)
      : box_(box),
        is_levels_(dtype == ScalarType::Byte),
        is_copy_(geometry.is_whole() && box.height == geometry.out_height && box.width == geometry.out_width) {
    if (is_copy_) return;
    const Axis rows = geometry.rows(box), columns = geometry.columns(box);
    if (!is_levels_) {
      numbers_ = {taps_of<F>(columns, box.horizontal_flip), taps_of<F>(rows, box.vertical_flip)};
      return;
    }
    IntegerTaps exact_columns(columns, geometry.pillow), exact_rows(rows, geometry.pillow);
    fits_float_ = exact_columns.fits_float && exact_rows.fits_float;
    if (fits_float_) {
      in_float_ = {exact_columns.made<float>(columns, box.horizontal_flip),
                   exact_rows.made<float>(rows, box.vertical_flip)};
    } else {
      in_integers_ = {exact_columns.made<int32_t>(columns, box.horizontal_flip),
                      exact_rows.made<int32_t>(rows, box.vertical_flip)};
    }
  }

  void run(const Geometry& geometry, const Normalisation<F>& normalisation, const Source& source, const Target& target,
           int64_t begin, int64_t end) const {
    if (is_copy_ && is_levels_) {
      Copier<uint8_t, F>(geometry.channels, box_, normalisation).run(source, target, begin, end);
    } else if (is_copy_) {
      Copier<F, F>(geometry.channels, box_, normalisation).run(source, target, begin, end);
    } else if (!is_levels_) {
      resample<F>(numbers_, geometry, normalisation, source, target, begin, end);
    } else if (fits_float_) {
      resample<uint8_t>(in_float_, geometry, normalisation, source, target, begin, end);
    } else {
      resample<uint8_t>(in_integers_, geometry, normalisation, source, target, begin, end);
    }
  }

 private:
  Box box_;
  // A crop that keeps its size needs no tables.
  bool is_levels_, is_copy_, fits_float_ = false;
  Tables<F> numbers_;
  Tables<float> in_float_;
  Tables<int32_t> in_integers_;
};

template <class F>
void resample_images(const Geometry& geometry, const BoxTable& boxes, const Normalisation<F>& normalisation,
                     const Tensor& image, const Tensor& output) {
  std::optional<Image<F>> shared;
  if (boxes.one_for_all()) shared.emplace(geometry, boxes.box(0), image.scalar_type());
  const int64_t rows = geometry.out_height;
  parallel_for(geometry.batch * rows, geometry.channels * geometry.out_width, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t n = begin / rows, first = begin - n * rows, last = std::min(rows, first + end - begin);
      const Box box = boxes.box(n);
      Source source = source_of(image, n);
      source.data = source.at(0, box.top, box.left);
      std::optional<Image<F>> own;
      if (!shared) own.emplace(geometry, box, image.scalar_type());
      (shared ? *shared : *own).run(geometry, normalisation, source, target_of(output, n), first, last);
      begin += last - first;
    }
  });
}

Tensor resized_crop_cpu(const Tensor& image,                            // [N, C, H, W]
                        const std::optional<Tensor>& boxes,             // [N, 4]
                        const std::optional<Tensor>& horizontal_flips,  // [N]
                        const std::optional<Tensor>& vertical_flips,    // [N]
                        const std::vector<int64_t>& box, int64_t height, int64_t width, int64_t interpolation,
                        bool antialias, ScalarType dtype, const std::vector<double>& mean,
                        const std::vector<double>& std, int64_t memory_format, bool pillow, int64_t scaling) {
  const Arguments arguments{boxes, horizontal_flips, vertical_flips, box,    height,
                            width, interpolation,    antialias,      dtype,  mean,
                            std,   memory_format,    pillow,         scaling};
  const Geometry geometry = check_arguments(image, arguments);
  const BoxTable table = checked_boxes(arguments, geometry);
  const Tensor output = empty_output(geometry, arguments, image);
  if (output.numel() == 0) return output;
  const bool is_level = image.scalar_type() == ScalarType::Byte;
  const std::vector<double> means = per_channel(mean, geometry.channels),
                            deviations = per_channel(std, geometry.channels);
  if (dtype == ScalarType::Double) {
    resample_images<double>(geometry, table, {means, deviations, is_level, static_cast<LevelScaling>(scaling)}, image,
                            output);
  } else {
    resample_images<float>(geometry, table, {means, deviations, is_level, static_cast<LevelScaling>(scaling)}, image,
                           output);
  }
  return output;
}

// The gradient of images [begin, end), which are zero outside their crops.
template <class F>
void gather_gradients(const Geometry& geometry, const BoxTable& boxes, const Normalisation<F>& normalisation,
                      const Tensor& grad_output, const Tensor& grad_image) {
  std::optional<Tables<F>> shared;
  const auto made = [&](const Box& box) {
    return Tables<F>{transposed(taps_of<F>(geometry.columns(box), box.horizontal_flip), box.width),
                     transposed(taps_of<F>(geometry.rows(box), box.vertical_flip), box.height)};
  };
  if (boxes.one_for_all()) shared = made(boxes.box(0));
  const int64_t rows = geometry.height;
  parallel_for(geometry.batch * rows, geometry.channels * geometry.width, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t n = begin / rows, first = begin - n * rows, last = std::min(rows, first + end - begin);
      begin += last - first;
      const Box box = boxes.box(n);
      // Of these rows, those of the crop.
      const int64_t low = std::max<int64_t>(first - box.top, 0), high = std::min<int64_t>(last - box.top, box.height);
      if (low >= high) continue;
      std::optional<Tables<F>> own;
      if (!shared) own = made(box);
      Target target = target_of(grad_image, n);
      target.data = target.at(0, box.top, box.left);
      resample<F>(shared ? *shared : *own, geometry, normalisation, source_of(grad_output, n), target, low, high);
    }
  });
}

Tensor resized_crop_backward_cpu(const Tensor& grad_output,                      // [N, C, height, width]
                                 const Tensor& image,                            // [N, C, H, W]
                                 const std::optional<Tensor>& boxes,             // [N, 4]
                                 const std::optional<Tensor>& horizontal_flips,  // [N]
                                 const std::optional<Tensor>& vertical_flips,    // [N]
                                 const std::vector<int64_t>& box, int64_t height, int64_t width, int64_t interpolation,
                                 bool antialias, ScalarType dtype, const std::vector<double>& mean,
                                 const std::vector<double>& std, int64_t memory_format, bool pillow, int64_t scaling,
                                 const std::vector<bool>& output_mask) {
  const Arguments arguments{boxes, horizontal_flips, vertical_flips, box,    height,
                            width, interpolation,    antialias,      dtype,  mean,
                            std,   memory_format,    pillow,         scaling};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const bool wanted = as_output_mask<1>(kOp, output_mask)[0];
  const Tensor grad_image = empty_gradient(wanted, image);
  if (!wanted || grad_image.numel() == 0) return grad_image;
  const BoxTable table = checked_boxes(arguments, geometry);
  fill_zero(grad_image);
  // Linear in the image: what is added to it has no part in the gradient.
  const std::vector<double> zeros = per_channel(std::vector<double>(mean.size()), geometry.channels);
  const std::vector<double> deviations = per_channel(std, geometry.channels);
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    using F = typename decltype(tag)::type;
    gather_gradients<F>(geometry, table, {zeros, deviations, false, LevelScaling::none}, grad_output, grad_image);
  });
  return grad_image;
}

std::tuple<Tensor, Tensor> resized_crop_double_backward_cpu(
    const std::optional<Tensor>& grad_grad_image,   // [N, C, H, W]
    const Tensor& grad_output,                      // [N, C, height, width]
    const Tensor& image,                            // [N, C, H, W]
    const std::optional<Tensor>& boxes,             // [N, 4]
    const std::optional<Tensor>& horizontal_flips,  // [N]
    const std::optional<Tensor>& vertical_flips,    // [N]
    const std::vector<int64_t>& box, int64_t height, int64_t width, int64_t interpolation, bool antialias,
    ScalarType dtype, const std::vector<double>& mean, const std::vector<double>& std, int64_t memory_format,
    bool pillow, int64_t scaling, const std::vector<bool>& output_mask) {
  const Arguments arguments{boxes, horizontal_flips, vertical_flips, box,    height,
                            width, interpolation,    antialias,      dtype,  mean,
                            std,   memory_format,    pillow,         scaling};
  const Geometry geometry = check_derivative(image, arguments, grad_output);
  const DoubleBackward call(geometry, arguments, grad_grad_image, image, output_mask);
  if (call.is_done()) return {call.grad_grad_output, call.grad_image};
  const BoxTable table = checked_boxes(arguments, geometry);
  const std::vector<double> zeros = per_channel(std::vector<double>(mean.size()), geometry.channels);
  const std::vector<double> deviations = per_channel(std, geometry.channels);
  dispatch_compute(kOp, image.scalar_type(), [&](auto tag) {
    using F = typename decltype(tag)::type;
    resample_images<F>(geometry, table, {zeros, deviations, false, LevelScaling::none}, *grad_grad_image,
                       call.grad_grad_output);
  });
  return {call.grad_grad_output, call.grad_image};
}

}  // namespace
}  // namespace handgrad::resized_crop

STABLE_TORCH_LIBRARY_IMPL(handgrad, CPU, library) {
  handgrad::implement<handgrad::resized_crop::resized_crop_cpu>(library, "resized_crop");
  handgrad::implement<handgrad::resized_crop::resized_crop_backward_cpu>(library, "_resized_crop_backward");
  handgrad::implement<handgrad::resized_crop::resized_crop_double_backward_cpu>(library,
                                                                                "_resized_crop_double_backward");
}
