// SPDX-License-Identifier: Apache-2.0
// The test runner's main; the tests are in the <name>_test.cpp files.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
