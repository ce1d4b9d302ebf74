// Fitting requests to what is on offer, and writing answers from a batch's outputs.
#include "offer.hpp"

#include <algorithm>
#include <cstring>

#include "protobuf.hpp"

namespace tidegate::frontend {

namespace {

/// Rows of a tensor of this shape; 0 if it is not `layout` with a leading axis.
std::int64_t rows_of(const Shape& shape, const TensorLayout& layout) noexcept {
    if (shape.axes != layout.shape.size() + 1) return 0;
    if (!std::equal(layout.shape.begin(), layout.shape.end(), shape.lengths.begin() + 1)) return 0;
    return shape.lengths[0];
}

void put_shape(std::string& out, std::uint32_t field, std::uint32_t rows,
               const TensorLayout& layout) {
    std::size_t size = varint_size(rows);
    for (const std::int64_t length : layout.shape) {
        size += varint_size(static_cast<std::uint64_t>(length));
    }
    put_length(out, field, size);
    put_varint(out, rows);
    for (const std::int64_t length : layout.shape) {
        put_varint(out, static_cast<std::uint64_t>(length));
    }
}

/// Appends the rows of one request as they lie in memory.
void put_rows(std::string& out, const OutputView& view, const Waist& waist, const Batch* batch,
              const AnswerForm& form) {
    for (std::uint32_t i = 0; i < form.rows; ++i) {
        const std::uint32_t row = waist.batch_row(batch, form.slot + i);
        out.append(view.data + row * view.row_bytes, view.row_bytes);
    }
}

template <class Element>
void put_varints(std::string& out, std::string_view elements) {
    for (std::size_t at = 0; at < elements.size(); at += sizeof(Element)) {
        Element element;
        std::memcpy(&element, elements.data() + at, sizeof element);
        put_varint(out, std::is_signed_v<Element>
                            ? static_cast<std::uint64_t>(static_cast<std::int64_t>(element))
                            : static_cast<std::uint64_t>(element));
    }
}

/// Appends an InferTensorContents with the elements, which lie in memory one after another.
void put_contents(std::string& out, const TensorLayout& layout, std::string_view elements) {
    std::string packed;
    Contents field = Contents::None;
    const std::size_t size = layout.item_bytes;
    if (layout.kind == 'f' || layout.kind == 'b') {
        field = layout.kind == 'b' ? Contents::Bool
                : size == 4        ? Contents::Float
                                   : Contents::Double;
        packed = elements;
    } else if (layout.kind == 'i') {
        field = size == 8 ? Contents::Int64 : Contents::Int;
        if (size == 1) put_varints<std::int8_t>(packed, elements);
        if (size == 2) put_varints<std::int16_t>(packed, elements);
        if (size == 4) put_varints<std::int32_t>(packed, elements);
        if (size == 8) put_varints<std::int64_t>(packed, elements);
    } else {
        field = size == 8 ? Contents::Uint64 : Contents::Uint;
        if (size == 1) put_varints<std::uint8_t>(packed, elements);
        if (size == 2) put_varints<std::uint16_t>(packed, elements);
        if (size == 4) put_varints<std::uint32_t>(packed, elements);
        if (size == 8) put_varints<std::uint64_t>(packed, elements);
    }
    std::string contents;
    put_bytes(contents, static_cast<std::uint32_t>(field), packed);
    put_bytes(out, 5, contents);
}

void write_infer(const Offer& offer, const AnswerForm& form, const Batch* batch,
                 const OutputView* views, std::string& out) {
    put_bytes(out, 1, offer.model);
    put_bytes(out, 2, offer.version);
    if (!form.id.empty()) put_bytes(out, 3, form.id);
    // FP16 and BF16 have no typed field; as soon as one output is raw, all are.
    bool raw = form.raw;
    for (std::size_t i = 0; i < form.wanted_count; ++i) raw |= !offer.outputs[form.wanted[i]].typed;
    std::string output;
    std::string elements;
    for (std::size_t i = 0; i < form.wanted_count; ++i) {
        const TensorLayout& layout = offer.outputs[form.wanted[i]];
        output.clear();
        put_bytes(output, 1, layout.name);
        put_bytes(output, 2, layout.datatype);
        put_shape(output, 3, form.rows, layout);
        if (!raw) {
            elements.clear();
            put_rows(elements, views[form.wanted[i]], *offer.waist, batch, form);
            put_contents(output, layout, elements);
        }
        put_bytes(out, 5, output);
    }
    for (std::size_t i = 0; raw && i < form.wanted_count; ++i) {
        const OutputView& view = views[form.wanted[i]];
        put_length(out, 6, view.row_bytes * form.rows);
        put_rows(out, view, *offer.waist, batch, form);
    }
}

void write_predict(const Offer& offer, const AnswerForm& form, const Batch* batch,
                   const OutputView* views, std::string& out) {
    const OutputView& view = views[form.wanted[0]];
    put_length(out, 1, view.row_bytes * form.rows);
    put_rows(out, view, *offer.waist, batch, form);
    put_bytes(out, 2, offer.model);
    put_bytes(out, 3, offer.version);
    put_shape(out, 4, form.rows, offer.outputs[form.wanted[0]]);
}

}  // namespace

const std::shared_ptr<const Offer>* Catalogue::find(std::string_view model,
                                                    std::string_view version) const noexcept {
    for (const auto& offer : offers) {
        if (offer->model == model &&
            (version.empty() ? offer->newest : offer->version == version)) {
            return &offer;
        }
    }
    return nullptr;
}

bool make_plan(const Catalogue& catalogue, const InferRequest& request, Plan& plan,
               AnswerForm& form) noexcept {
    plan.offer = catalogue.find(request.model, request.version);
    if (plan.offer == nullptr) return false;
    const Offer& offer = **plan.offer;
    const std::size_t count = request.input_count;
    if (count != offer.inputs.size()) return false;
    form.raw = request.raw_count != 0;
    if (form.raw && request.raw_count != count) return false;
    std::uint32_t filled = 0;  // bit by column
    for (std::size_t i = 0; i < count; ++i) {
        const InferInput& input = request.inputs[i];
        const int column = offer.input(input.name);
        if (column < 0 || (filled >> column & 1) != 0) return false;
        filled |= 1u << column;
        const TensorLayout& layout = offer.inputs[static_cast<std::size_t>(column)];
        const std::int64_t rows = rows_of(input.shape, layout);
        if (input.datatype != layout.datatype || rows < 1 || rows > offer.most_rows) return false;
        if (i > 0 && rows != plan.rows) return false;
        plan.rows = static_cast<std::uint32_t>(rows);
        Plan::Source& source = plan.sources[static_cast<std::size_t>(column)];
        if (form.raw) {
            source = {request.raw[i], Contents::None};
            if (input.contents != Contents::None) return false;
            if (source.bytes.size() != plan.rows * layout.row_bytes) return false;
            if (layout.kind == 'b')
                return false;  // a byte that is neither 0 nor 1 would be no bool
        } else {
            source = {input.elements, input.contents};
            if (source.contents == Contents::None) return false;
        }
    }
    if (request.output_count == 0) {
        form.wanted_count = static_cast<std::uint8_t>(offer.outputs.size());
        for (std::uint8_t i = 0; i < form.wanted_count; ++i) form.wanted[i] = i;
    } else {
        form.wanted_count = static_cast<std::uint8_t>(request.output_count);
        for (std::size_t i = 0; i < request.output_count; ++i) {
            const int output = offer.output(request.outputs[i]);
            if (output < 0) return false;
            form.wanted[i] = static_cast<std::uint8_t>(output);
        }
    }
    if (request.timeout_microseconds > 0) {
        plan.timeout = request.timeout_microseconds * kMicrosecond;
    }
    form.rows = plan.rows;
    form.id = request.id;
    return true;
}

bool make_plan(const Catalogue& catalogue, const PredictRequest& request, Plan& plan,
               AnswerForm& form) noexcept {
    plan.offer = request.model.empty() && request.version.empty()
                     ? catalogue.only()
                     : catalogue.find(request.model, request.version);
    if (plan.offer == nullptr) return false;
    const Offer& offer = **plan.offer;
    if (offer.inputs.size() != 1) return false;
    const TensorLayout& input = offer.inputs[0];
    if (input.datatype != "FP32") return false;
    std::int64_t rows = 1;
    if (request.shape.axes != 0) rows = rows_of(request.shape, input);
    if (rows < 1 || rows > offer.most_rows) return false;
    plan.rows = static_cast<std::uint32_t>(rows);
    if (request.features.size() != plan.rows * input.row_bytes) return false;
    plan.sources[0] = {request.features, Contents::None};
    int output = 0;
    if (request.output.empty()) {
        if (offer.outputs.size() != 1) return false;
    } else {
        output = offer.output(request.output);
    }
    if (output < 0 || offer.outputs[static_cast<std::size_t>(output)].datatype != "FP32") {
        return false;
    }
    form.predict = true;
    form.rows = plan.rows;
    form.wanted_count = 1;
    form.wanted[0] = static_cast<std::uint8_t>(output);
    return true;
}

bool copy_rows(const Plan& plan, const Reservation& reservation) noexcept {
    const Offer& offer = **plan.offer;
    for (std::size_t column = 0; column < offer.inputs.size(); ++column) {
        const TensorLayout& layout = offer.inputs[column];
        const Plan::Source& source = plan.sources[column];
        char* const target =
            offer.waist->column(&reservation, column) + reservation.index * layout.row_bytes;
        const std::size_t bytes = plan.rows * layout.row_bytes;
        if (source.contents == Contents::None) {
            std::memcpy(target, source.bytes.data(), bytes);
        } else if (!unpack(source.contents, source.bytes, bytes / layout.item_bytes, layout.kind,
                           layout.item_bytes, target)) {
            return false;
        }
    }
    return true;
}

bool keeps_promise(const Offer& offer, const OutputView* views, std::size_t count) noexcept {
    if (count != offer.outputs.size()) return false;
    for (std::size_t i = 0; i < count; ++i) {
        const TensorLayout& layout = offer.outputs[i];
        const OutputView& view = views[i];
        if (view.kind != layout.kind || view.item_bytes != layout.item_bytes ||
            view.axes != layout.shape.size() + 1 ||
            !std::equal(layout.shape.begin(), layout.shape.end(), view.shape + 1)) {
            return false;
        }
    }
    return true;
}

void write_answer(const Offer& offer, const AnswerForm& form, const Batch* batch,
                  const OutputView* views, std::string& out) {
    if (form.predict) {
        write_predict(offer, form, batch, views, out);
    } else {
        write_infer(offer, form, batch, views, out);
    }
}

}  // namespace tidegate::frontend
