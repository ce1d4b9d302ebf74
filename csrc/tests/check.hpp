// CHECK for the native tests: a condition that does not hold ends the program with status 1.
#pragma once

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <type_traits>

namespace tidegate::testing {

/// What the program is at, printed with a failure.
inline std::string context;

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    std::fprintf(stderr, "%s:%d: %s %s\n", file, line, what.c_str(), context.c_str());
    // No destructors: other threads may still be at work.
    std::_Exit(1);
}

/// Fails if the program still runs after so long: for tests that would hang on a defect.
inline void fail_if_hung(unsigned seconds = 120) {
    std::signal(SIGALRM, [](int) { fail("main", 0, "the test hangs"); });
    alarm(seconds);
}

template <typename T>
std::string printed(const T& value) {
    std::ostringstream out;
    if constexpr (std::is_enum_v<T>) {
        out << static_cast<long long>(value);
    } else if constexpr (std::is_integral_v<T>) {
        out << +value;  // a byte as a number
    } else {
        out << value;
    }
    return out.str();
}

template <typename A, typename B>
void check_equal(const A& left, const B& right, const char* text, const char* file, int line) {
    if (left == right) return;
    fail(file, line, std::string(text) + ": " + printed(left) + " != " + printed(right));
}

}  // namespace tidegate::testing

/// CHECK(condition) or CHECK(condition, "why it should hold").
#define CHECK(condition, ...)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            ::tidegate::testing::fail(__FILE__, __LINE__,                                         \
                                      std::string(#condition " does not hold" __VA_OPT__(": ")) + \
                                          std::string(__VA_ARGS__));                              \
        }                                                                                         \
    } while (false)

/// CHECK_EQUAL(value, expected) prints both.
#define CHECK_EQUAL(left, right) \
    ::tidegate::testing::check_equal((left), (right), #left " == " #right, __FILE__, __LINE__)
