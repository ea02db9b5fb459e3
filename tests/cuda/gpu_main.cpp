// SPDX-License-Identifier: Apache-2.0
// The main of the tests of the CUDA backend. Where no device can be used it says so and returns 77, "skipped" in CTest's
// words, or 1 if ISIC_REQUIRE_GPU is set. A run in which nothing was checked fails.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include <isic/cuda/backend.hpp>

#include "support/listener.hpp"

namespace {

unsigned cases_run = 0;
int assertions_run = 0;

struct counter : isic_test::listener {
    using listener::listener;
    void test_run_end(const doctest::TestRunStats& stats) override {
        cases_run = stats.numTestCasesPassingFilters;
        assertions_run = stats.numAsserts;
    }
};
REGISTER_LISTENER("counter", 1, counter);

bool device_required() {
    const char* const value = std::getenv("ISIC_REQUIRE_GPU");
    return value != nullptr && *value != '\0' && std::string(value) != "0";
}

}  // namespace

int main(int argc, char** argv) {
    doctest::Context context(argc, argv);
    if (context.shouldExit())
        return context.run();  // --help, --list-test-cases and the like
    if (!isic::cuda::available()) {
        const bool required = device_required();
        std::printf("[isic] %s: no usable CUDA device: %s\n", required ? "FAILED" : "SKIPPED",
                    isic::cuda::unavailable_reason().c_str());
        return required ? 1 : 77;
    }
    const int result = context.run();
    if (result == 0 && (cases_run == 0 || assertions_run == 0)) {
        std::printf("[isic] FAILED: nothing was checked (%u test cases, %d assertions)\n", cases_run, assertions_run);
        return 1;
    }
    return result;
}
