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

}  // namespace

TEST_CASE("the README's programs are the compiled examples") {
    const auto programs = blocks("cpp");
    REQUIRE(programs.size() == 2);
    CHECK(programs[0] == text_of("examples/quickstart.cpp"));
    CHECK(programs[1] == text_of("examples/own_generator.cpp"));
}

TEST_CASE("the README's commands exist") {
    for (const char* script : {"scripts/demo.sh", "scripts/test.sh"}) {
        CHECK(text_of("README.md").find(script) != std::string::npos);
        CHECK(!text_of(script).empty());
    }
}
