// The front end's small encodings: protobuf in place, gRPC's headers, fitting requests to offers.
#include <zlib.h>

#include <array>
#include <cstring>
#include <limits>
#include <string>

#include "check.hpp"
#include "grpc.hpp"
#include "messages.hpp"
#include "offer.hpp"
#include "protobuf.hpp"

using namespace tidegate;
using namespace tidegate::frontend;

namespace {

std::string_view floats(const std::array<float, 4>& values) {
    return {reinterpret_cast<const char*>(values.data()), sizeof values};
}

std::string shape_of(std::initializer_list<std::uint64_t> lengths) {
    std::string packed;
    for (const std::uint64_t length : lengths) put_varint(packed, length);
    return packed;
}

/// A ModelInferRequest with one raw input of [2, 2] floats.
std::string infer_message(std::string_view raw, std::string_view shape = "\x02\x02") {
    std::string input;
    put_bytes(input, 1, "x");
    put_bytes(input, 2, "FP32");
    put_bytes(input, 3, shape);
    std::string message;
    put_bytes(message, 1, "model");
    put_bytes(message, 3, "id-1");
    put_bytes(message, 5, input);
    put_bytes(message, 7, raw);
    return message;
}

Catalogue catalogue_of(std::uint32_t most_rows = 4) {
    auto offer = std::make_shared<Offer>();
    offer->model = "model";
    offer->version = "1";
    offer->most_rows = most_rows;
    offer->inputs = {{"x", "FP32", {2}, 'f', 4, 8, true}};
    offer->outputs = {{"y", "FP32", {2}, 'f', 4, 8, true}, {"z", "INT8", {}, 'i', 1, 1, true}};
    Catalogue catalogue;
    catalogue.models = 1;
    catalogue.offers.push_back(std::move(offer));
    return catalogue;
}

void test_varints_at_their_limits() {
    for (const std::uint64_t value :
         {std::uint64_t{0}, std::uint64_t{127}, std::uint64_t{128}, std::uint64_t{1} << 35,
          std::numeric_limits<std::uint64_t>::max()}) {
        std::string bytes;
        put_varint(bytes, value);
        CHECK_EQUAL(bytes.size(), varint_size(value));
        ProtobufReader reader(bytes);
        std::uint64_t back = 0;
        CHECK(reader.varint(back) && reader.at_end());
        CHECK_EQUAL(back, value);
        // Cut off anywhere, it is none.
        for (std::size_t size = 0; size < bytes.size(); ++size) {
            ProtobufReader cut(std::string_view(bytes).substr(0, size));
            CHECK(!cut.varint(back) && cut.failed());
        }
    }
    const std::string eleven(10, '\xff');
    ProtobufReader reader(eleven);
    std::uint64_t value = 0;
    CHECK(!reader.varint(value), "more than 64 bits");
}

void test_lengths_never_reach_beyond_the_message() {
    std::string message;
    put_bytes(message, 1, "abc");
    for (std::size_t size = 1; size < message.size(); ++size) {
        ProtobufReader reader(std::string_view(message).substr(0, size));
        std::string_view value;
        CHECK(!(reader.next() && reader.bytes(value)));
        CHECK(reader.failed());
    }
    std::string huge;
    put_length(huge, 1, std::numeric_limits<std::size_t>::max());
    ProtobufReader reader(huge);
    std::string_view value;
    CHECK(reader.next() && !reader.bytes(value));
}

void test_unknown_fields_are_stepped_over() {
    std::string message;
    put_key(message, 100, Wire::Varint);
    put_varint(message, 5);
    put_key(message, 101, Wire::Fixed64);
    message.append(8, 'x');
    put_key(message, 102, Wire::Fixed32);
    message.append(4, 'x');
    put_bytes(message, 103, "unknown");
    put_bytes(message, 2, "model");
    PredictRequest request;
    CHECK(decode(message, request));
    CHECK(request.model == "model");
    std::string group;
    put_varint(group, 104 << 3 | 3);
    CHECK(!decode(group, request), "groups do not exist in proto3");
    std::string zero;
    put_varint(zero, 0);
    CHECK(!decode(zero, request), "there is no field 0");
}

void test_a_plain_request_is_understood_in_place() {
    const std::array<float, 4> values{1, 2, 3, 4};
    const std::string message = infer_message(floats(values));
    InferRequest request;
    CHECK(decode(message, request));
    CHECK(request.model == "model" && request.id == "id-1");
    CHECK_EQUAL(request.input_count, 1u);
    CHECK_EQUAL(request.raw_count, 1u);
    CHECK(request.raw[0].data() > message.data(), "a view");
    const Catalogue catalogue = catalogue_of();
    Plan plan;
    AnswerForm form;
    CHECK(make_plan(catalogue, request, plan, form));
    CHECK_EQUAL(plan.rows, 2u);
    CHECK(form.raw);
    CHECK_EQUAL(form.wanted_count, 2);
}

void test_whatever_does_not_fit_is_left_to_python() {
    const std::array<float, 4> values{1, 2, 3, 4};
    const auto planned = [](const std::string& message, std::uint32_t most_rows = 4) {
        InferRequest request;
        if (!decode(message, request)) return false;
        const Catalogue catalogue = catalogue_of(most_rows);
        Plan plan;
        AnswerForm form;
        return make_plan(catalogue, request, plan, form);
    };
    CHECK(planned(infer_message(floats(values))));
    CHECK(!planned(infer_message(floats(values).substr(1))), "too few bytes");
    CHECK(!planned(infer_message(floats(values), shape_of({1, 2}))), "too many bytes");
    CHECK(!planned(infer_message(floats(values), shape_of({2}))), "an axis is missing");
    CHECK(!planned(infer_message({}, shape_of({0, 2}))), "no rows");
    CHECK(!planned(infer_message(floats(values), shape_of({2, 3}))), "another length");
    CHECK(!planned(infer_message(floats(values), shape_of({~0ull, 2}))), "a negative length");
    CHECK(!planned(infer_message(floats(values)), 1), "too many rows");
    std::string twice = infer_message(floats(values));
    put_bytes(twice, 7, floats(values));
    CHECK(!planned(twice), "raw contents without an input");
    std::string unknown = infer_message(floats(values));
    std::string output;
    put_bytes(output, 1, "nothing");
    put_bytes(unknown, 6, output);
    CHECK(!planned(unknown), "an output that does not exist");
    std::string parameters;
    put_bytes(parameters, 1, "z");
    put_bytes(parameters, 2, "whatever");
    std::string shared = infer_message(floats(values));
    put_bytes(shared, 6, parameters);
    CHECK(!planned(shared), "an output with parameters");
}

void test_the_timeout_is_read_and_other_parameters_are_not() {
    const std::array<float, 4> values{1, 2, 3, 4};
    const auto with = [&](std::string_view key, std::uint32_t field, std::uint64_t value) {
        std::string choice;
        put_key(choice, field, Wire::Varint);
        put_varint(choice, value);
        std::string entry;
        put_bytes(entry, 1, key);
        put_bytes(entry, 2, choice);
        std::string message = infer_message(floats(values));
        put_bytes(message, 4, entry);
        return message;
    };
    InferRequest timed;
    const std::string message = with("timeout", 2, 1500);
    CHECK(decode(message, timed));
    CHECK_EQUAL(timed.timeout_microseconds, 1500);
    InferRequest other;
    CHECK(decode(with("colour", 1, 1), other));
    CHECK_EQUAL(other.timeout_microseconds, -1);
    InferRequest level;
    CHECK(decode(with("priority", 2, 1), level));
    InferRequest refused;
    CHECK(!decode(with("priority", 2, 2), refused), "Python says that there is no such level");
    CHECK(!decode(with("timeout", 1, 1), refused), "a bool");
    CHECK(!decode(with("timeout", 2, ~0ull), refused), "negative");
    const std::uint64_t most = kNever / kMicrosecond;
    CHECK(decode(with("timeout", 2, most), other));
    CHECK(other.timeout_microseconds * kMicrosecond > 0, "does not overflow");
    CHECK(!decode(with("timeout", 2, most + 1), refused), "Python says what for ever is");
}

void test_typed_elements_are_checked_against_their_type() {
    std::string packed;
    for (const std::int64_t value : {-128, 127})
        put_varint(packed, static_cast<std::uint64_t>(value));
    std::array<std::int8_t, 2> bytes{};
    auto* const target = reinterpret_cast<char*>(bytes.data());
    CHECK(unpack(Contents::Int, packed, 2, 'i', 1, target));
    CHECK(bytes[0] == -128 && bytes[1] == 127);
    CHECK(!unpack(Contents::Int, packed, 1, 'i', 1, target), "too many");
    CHECK(!unpack(Contents::Int, packed, 3, 'i', 1, target), "too few");
    CHECK(!unpack(Contents::Int, packed, 2, 'u', 1, target), "of another kind");
    std::string large;
    put_varint(large, 128);
    CHECK(!unpack(Contents::Int, large, 1, 'i', 1, target), "out of range");
    CHECK(!unpack(Contents::Bool, std::string_view("\2", 1), 1, 'b', 1, target), "no bool");
    CHECK(unpack(Contents::Bool, std::string_view("\1", 1), 1, 'b', 1, target));
    std::uint64_t whole = 0;
    std::string most;
    put_varint(most, std::numeric_limits<std::uint64_t>::max());
    CHECK(unpack(Contents::Uint64, most, 1, 'u', 8, reinterpret_cast<char*>(&whole)));
    CHECK_EQUAL(whole, std::numeric_limits<std::uint64_t>::max());
}

void test_timeouts() {
    CHECK(parse_timeout("1S") == kSecond);
    CHECK(parse_timeout("250m") == 250 * kMillisecond);
    CHECK(parse_timeout("99999999H").value() > 0, "does not overflow");
    CHECK(parse_timeout("7u") == 7 * kMicrosecond && parse_timeout("7n") == 7);
    CHECK(parse_timeout("2M") == 120 * kSecond);
    for (const char* wrong : {"", "S", "1", "1s", "-1S", "1.5S", "123456789S", "1SS"}) {
        CHECK(!parse_timeout(wrong).has_value(), wrong);
    }
}

void test_messages_of_statuses_are_encoded() {
    CHECK_EQUAL(percent_encoded("100 % of ä\n"), "100 %25 of %C3%A4%0A");
}

void test_gzip_is_bounded() {
    const std::string zeros(100'000, '\0');
    z_stream stream{};
    CHECK(deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
    std::string compressed(1000, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(zeros.data()));
    stream.avail_in = static_cast<uInt>(zeros.size());
    stream.next_out = reinterpret_cast<Bytef*>(compressed.data());
    stream.avail_out = static_cast<uInt>(compressed.size());
    CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
    compressed.resize(stream.total_out);
    deflateEnd(&stream);
    std::string out;
    CHECK(decompress(compressed, zeros.size(), out) && out == zeros);
    out.clear();
    CHECK(!decompress(compressed, 1000, out), "larger than allowed");
    CHECK(out.size() < 40'000, "and found out early");
    out.clear();
    CHECK(!decompress(compressed.substr(0, compressed.size() - 1), zeros.size(), out), "cut off");
    out.clear();
    CHECK(!decompress(compressed + "x", zeros.size(), out), "something after it");
    out.clear();
    CHECK(!decompress("no gzip at all", 1000, out));
}

void test_tokens() {
    const std::array<std::string, 2> tokens{"old", "newer"};
    const auto check = [&](std::string_view header) {
        return access_of(header, tokens.data(), tokens.size()) == Access::Granted;
    };
    CHECK(check("Bearer old") && check("bearer newer") && check("BEARER  old "));
    for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer ol", "Bearer oldold", "old",
                              "Basic old", "Bearer newe", "Bearer newernewer"}) {
        CHECK(!check(wrong), wrong);
    }
}

void test_an_answer_that_breaks_the_promise_is_noticed() {
    const Catalogue catalogue = catalogue_of();
    const Offer& offer = *catalogue.offers[0];
    const std::array<std::int64_t, 2> shape{3, 2};
    const std::array<std::int64_t, 2> other{3, 3};
    OutputView y{nullptr, 8, shape.data(), 2, 4, 'f'};
    OutputView z{nullptr, 1, shape.data(), 1, 1, 'i'};
    CHECK(keeps_promise(offer, std::array{y, z}.data(), 2));
    CHECK(!keeps_promise(offer, &y, 1), "one is missing");
    OutputView wrong = y;
    wrong.shape = other.data();
    CHECK(!keeps_promise(offer, std::array{wrong, z}.data(), 2));
    wrong = y;
    wrong.kind = 'i';
    CHECK(!keeps_promise(offer, std::array{wrong, z}.data(), 2));
    wrong = y;
    wrong.item_bytes = 8;
    CHECK(!keeps_promise(offer, std::array{wrong, z}.data(), 2));
    wrong = y;
    wrong.axes = 1;
    CHECK(!keeps_promise(offer, std::array{wrong, z}.data(), 2));
}

}  // namespace

int main() {
    test_varints_at_their_limits();
    test_lengths_never_reach_beyond_the_message();
    test_unknown_fields_are_stepped_over();
    test_a_plain_request_is_understood_in_place();
    test_whatever_does_not_fit_is_left_to_python();
    test_the_timeout_is_read_and_other_parameters_are_not();
    test_typed_elements_are_checked_against_their_type();
    test_timeouts();
    test_messages_of_statuses_are_encoded();
    test_gzip_is_bounded();
    test_tokens();
    test_an_answer_that_breaks_the_promise_is_noticed();
}
