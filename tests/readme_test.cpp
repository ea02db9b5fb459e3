// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <filesystem>
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

// The contents of a document's blocks of one language, in order.
std::vector<std::string> blocks(const std::string& document, const std::string& language) {
    const std::string text = text_of(document);
    const std::string open = "```" + language + "\n";
    std::vector<std::string> out;
    for (auto at = text.find(open); at != std::string::npos; at = text.find(open, at)) {
        at += open.size();
        const auto end = text.find("```", at);
        out.push_back(text.substr(at, end - at));
        at = end;
    }
    return out;
}

/// An example without its licence line, which the documents leave out.
std::string program_of(const char* path) {
    const std::string text = text_of(path);
    REQUIRE(text.starts_with("// SPDX"));
    return text.substr(text.find('\n') + 1);
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

TEST_CASE("the documents' programs are the compiled examples") {
    const auto readme = blocks("README.md", "cpp");
    REQUIRE(readme.size() == 2);
    CHECK(readme[0] == program_of("examples/quickstart.cpp"));
    REQUIRE(!readme[1].empty());
    CHECK(program_of("examples/own_generator.cpp").find(readme[1]) != std::string::npos);  // an excerpt
    const auto generator = blocks("docs/generator.md", "cpp");
    REQUIRE(generator.size() == 1);
    CHECK(generator[0] == program_of("examples/own_generator.cpp"));
    const auto gpu = blocks("docs/gpu.md", "cpp");
    REQUIRE(!gpu.empty());
    CHECK(gpu[0] == program_of("examples/gpu.cpp"));
}

#ifdef ISIC_QUICKSTART
constexpr const char* quickstart = ISIC_QUICKSTART;
constexpr const char* own_generator = ISIC_OWN_GENERATOR;
#else
constexpr const char* quickstart = nullptr;
constexpr const char* own_generator = nullptr;
#endif

TEST_CASE("the documents show what their programs print" * doctest::skip(quickstart == nullptr)) {
    const auto readme = blocks("README.md", "text");
    REQUIRE(readme.size() == 2);
    CHECK(readme[0] == output_of(quickstart));
    CHECK(readme[1] == output_of(own_generator));
    const auto generator = blocks("docs/generator.md", "text");
    REQUIRE(generator.size() == 1);
    CHECK(generator[0] == output_of(own_generator));
}

TEST_CASE("local links of the documents lead to files") {
    for (const std::string document :
         {"README.md", "CONTRIBUTING.md", "SECURITY.md", "bindings/README.md", "docs/architecture.md",
          "docs/choosing.md", "docs/generator.md", "docs/gpu.md", "docs/method.md", "docs/performance.md",
          "docs/results.md", "docs/decisions/README.md"}) {
        const std::string text = text_of(document);
        const std::string folder = document.substr(0, document.rfind('/') + 1);
        for (auto at = text.find("]("); at != std::string::npos; at = text.find("](", at)) {
            at += 2;
            const std::string target = text.substr(at, text.find(')', at) - at);
            if (target.find("://") == std::string::npos &&
                target.find(' ') == std::string::npos) {  // a C++ lambda has spaces
                INFO(document);
                CHECK_MESSAGE(std::filesystem::exists(std::string(ISIC_SOURCE_DIR) + "/" + folder + target), target);
            }
        }
    }
}

TEST_CASE("the README's commands exist") {
    for (const char* script : {"scripts/demo.sh", "scripts/test.sh"}) {
        CHECK(text_of("README.md").find(script) != std::string::npos);
        CHECK(!text_of(script).empty());
    }
}
