// SPDX-License-Identifier: Apache-2.0
// The main of the tests that are watched for data races (support/cuda/races.hpp). A race is a failure, whatever the tests say.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <string>

#include "support/cuda/races.hpp"
#include "support/listener.hpp"

namespace {

int races = 0;
unsigned cases_run = 0;

// Says which test a race was found in.
struct race_reporter : isic_test::listener {
    using listener::listener;
    void test_run_end(const doctest::TestRunStats& stats) override { cases_run = stats.numTestCasesPassingFilters; }
    void test_case_start(const doctest::TestCaseData& about) override { name_ = about.m_name; }
    void test_case_end(const doctest::CurrentTestCaseStats&) override {
        for (const std::string& race : stand_in::races::take_found()) {
            std::printf("%s: %s\n", name_, race.c_str());
            std::fflush(stdout);
            ++races;
        }
    }

private:
    const char* name_ = "";
};
REGISTER_LISTENER("races", 1, race_reporter);

}  // namespace

int main(int argc, char** argv) {
    doctest::Context context(argc, argv);
    const int result = context.run();
    std::printf("[isic] %d races in %u test cases\n", races, cases_run);
    return result != 0 || races != 0 || cases_run == 0 ? 1 : 0;
}
