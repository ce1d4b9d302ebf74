// Runs a fuzzer where libFuzzer is not at hand: FUZZER SEEDS COUNT [SEED].
//
// Every file of the folder SEEDS is an input; COUNT more are made from them by small random
// changes, the same ones for the same SEED. There is no feedback from coverage, so that it finds
// less than libFuzzer does; it is here so that every build under a sanitizer tries some.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::string;
constexpr std::size_t kMostBytes = 4096;
constexpr int kMostChanges = 8;

class Mutator {
  public:
    Mutator(std::vector<Bytes> seeds, std::uint64_t seed)
        : seeds_(std::move(seeds)), random_(seed) {}

    Bytes next() {
        Bytes bytes = any();
        for (std::size_t changes = below(kMostChanges) + 1; changes > 0; --changes) change(bytes);
        if (bytes.size() > kMostBytes) bytes.resize(kMostBytes);
        return bytes;
    }

  private:
    std::size_t below(std::size_t end) {
        return std::uniform_int_distribution<std::size_t>(0, end - 1)(random_);
    }
    const Bytes& any() { return seeds_[below(seeds_.size())]; }

    void change(Bytes& bytes) {
        const std::size_t at = below(bytes.size() + 1);
        const std::size_t left = bytes.size() - at;
        switch (below(7)) {
            case 0:  // a bit
                if (left > 0) bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
                return;
            case 1: {  // a byte on some edge
                constexpr unsigned char kEdges[] = {0, 1, 0x7f, 0x80, 0xff};
                if (left > 0) bytes[at] = static_cast<char>(kEdges[below(std::size(kEdges))]);
                return;
            }
            case 2:  // any byte, more
                bytes.insert(at, 1, static_cast<char>(below(256)));
                return;
            case 3:
                bytes.erase(at, left > 0 ? below(left) + 1 : 0);
                return;
            case 4:  // a part of it once more
                if (left > 0) bytes.insert(below(bytes.size() + 1), bytes.substr(at, below(left)));
                return;
            case 5: {  // the start of one and the end of another
                const Bytes& other = any();
                bytes = bytes.substr(0, at) + other.substr(below(other.size() + 1));
                return;
            }
            default:
                bytes.resize(at);
        }
    }

    const std::vector<Bytes> seeds_;
    std::mt19937_64 random_;
};

void run(const Bytes& bytes) {
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int count, char** words) {
    if (count < 3) {
        std::fprintf(stderr, "usage: %s SEEDS COUNT [SEED]\n", words[0]);
        return 2;
    }
    std::map<std::string, Bytes> files;  // sorted: a folder lists them in any order
    for (const auto& entry : std::filesystem::directory_iterator(words[1])) {
        std::ifstream file(entry.path(), std::ios::binary);
        files[entry.path().filename()] = {std::istreambuf_iterator<char>(file), {}};
    }
    if (files.empty()) {
        std::fprintf(stderr, "%s has no inputs\n", words[1]);
        return 2;
    }
    std::vector<Bytes> seeds;
    for (auto& [name, bytes] : files) {
        run(bytes);
        seeds.push_back(std::move(bytes));
    }
    Mutator mutator(std::move(seeds), count > 3 ? std::strtoull(words[3], nullptr, 10) : 1);
    const long wanted = std::strtol(words[2], nullptr, 10);
    for (long i = 0; i < wanted; ++i) run(mutator.next());
    std::printf("%zu seeds and %ld inputs made from them\n", files.size(), wanted);
    return 0;
}
