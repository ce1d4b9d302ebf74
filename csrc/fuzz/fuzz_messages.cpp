// Fuzzes what reads requests: whatever the bytes, decoding stays within them.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "grpc.hpp"
#include "messages.hpp"
#include "offer.hpp"

using namespace tidegate;
using namespace tidegate::frontend;

namespace {

const Catalogue& catalogue() {
    static const Catalogue made = [] {
        Catalogue catalogue;
        for (const char* name : {"", "m", "model"}) {
            auto offer = std::make_shared<Offer>();
            offer->model = name;
            offer->version = "1";
            offer->most_rows = 64;
            offer->inputs = {{"x", "FP32", {2}, 'f', 4, 8, true}};
            if (*name == 'm') offer->inputs.push_back({"n", "INT8", {}, 'i', 1, 1, true});
            offer->outputs = {{"y", "FP32", {2}, 'f', 4, 8, true}};
            catalogue.offers.push_back(std::move(offer));
        }
        catalogue.models = 1;
        return catalogue;
    }();
    return made;
}

/// Reads every byte of every source, as copying them into a slot would.
void copy(const Plan& plan) {
    const Offer& offer = **plan.offer;
    for (std::size_t column = 0; column < offer.inputs.size(); ++column) {
        const TensorLayout& layout = offer.inputs[column];
        const Plan::Source& source = plan.sources[column];
        std::string target(plan.rows * layout.row_bytes, '\0');
        if (source.contents == Contents::None) {
            target.assign(source.bytes);
            if (target.size() != plan.rows * layout.row_bytes) __builtin_trap();
        } else {
            static_cast<void>(unpack(source.contents, source.bytes,
                                     target.size() / layout.item_bytes, layout.kind,
                                     layout.item_bytes, target.data()));
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    // A copy of exactly this size, so that a sanitizer sees a read beyond its end.
    const std::unique_ptr<char[]> bytes(new char[size]);
    std::copy(data, data + size, bytes.get());
    const std::string_view message(bytes.get(), size);
    {
        Plan plan;
        AnswerForm form;
        InferRequest request;
        if (decode(message, request) && make_plan(catalogue(), request, plan, form)) copy(plan);
    }
    {
        Plan plan;
        AnswerForm form;
        PredictRequest request;
        if (decode(message, request) && make_plan(catalogue(), request, plan, form)) copy(plan);
    }
    std::string out;
    static_cast<void>(decompress(message, 4096, out));
    if (out.size() > 4096 + 16384) __builtin_trap();
    static_cast<void>(parse_timeout(message));
    static_cast<void>(percent_encoded(message));
    return 0;
}
