#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::string text_of(const std::string& path) {
    std::ifstream in(std::string(ISIC_SOURCE_DIR) + "/" + path);
    REQUIRE_MESSAGE(in.good(), path);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
}

// The contents of the README's blocks of one language, in order.
std::vector<std::string> blocks(const std::string& language) {
    const std::string readme = text_of("README.md");
    const std::string open = "```" + language + "\n";
    std::vector<std::string> out;
    for (auto at = readme.find(open); at != std::string::npos; at = readme.find(open, at)) {
        at += open.size();
        const auto end = readme.find("```", at);
        out.push_back(readme.substr(at, end - at));
        at = end;
    }
    return out;
}

std::string output_of(const char* program) {
    std::FILE* pipe = popen(program, "r");
    REQUIRE(pipe != nullptr);
    std::string out;
    std::array<char, 4096> part{};
    for (std::size_t n = 0; (n = std::fread(part.data(), 1, part.size(), pipe)) > 0;) {
        out.append(part.data(), n);
    }
    CHECK(pclose(pipe) == 0);
    return out;
}

}  // namespace

TEST_CASE("the README's programs are the compiled examples") {
    const auto programs = blocks("cpp");
    REQUIRE(programs.size() == 3);
    CHECK(programs[0] == text_of("examples/quickstart.cpp"));
    CHECK(programs[1] == text_of("examples/own_generator.cpp"));
    CHECK(programs[2] == text_of("examples/gpu.cpp"));
}

#ifdef ISIC_QUICKSTART
constexpr const char* quickstart = ISIC_QUICKSTART;
constexpr const char* own_generator = ISIC_OWN_GENERATOR;
#else
constexpr const char* quickstart = nullptr;
constexpr const char* own_generator = nullptr;
#endif

TEST_CASE("the README shows what its programs print" * doctest::skip(quickstart == nullptr)) {
    const auto outputs = blocks("text");
    REQUIRE(outputs.size() == 2);
    CHECK(outputs[0] == output_of(quickstart));
    CHECK(outputs[1] == output_of(own_generator));
}

TEST_CASE("the README's commands exist") {
    for (const char* script : {"scripts/demo.sh", "scripts/test.sh"}) {
        CHECK(text_of("README.md").find(script) != std::string::npos);
        CHECK(!text_of(script).empty());
    }
}
