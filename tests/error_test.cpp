// SPDX-License-Identifier: Apache-2.0
#include <isic/error.hpp>

#include <cmath>
#include <limits>
#include <type_traits>

#include <isic/detail/checks.hpp>

#include "support/errors.hpp"

using isic_test::check_throws;

TEST_CASE("every error is an isic::error and a runtime_error") {
    const auto caught = [](auto thrown) {
        try {
            throw thrown;
        } catch (const isic::error& e) {
            return std::string(e.what());
        }
    };
    CHECK(caught(isic::shape_error("a")) == "a");
    CHECK(caught(isic::value_error("b")) == "b");
    CHECK(caught(isic::numeric_error("c")) == "c");
    CHECK(caught(isic::io_error("d")) == "d");
    CHECK(caught(isic::backend_error("e")) == "e");
    CHECK(std::is_base_of_v<std::runtime_error, isic::error>);
}

TEST_CASE("a message names function, expected and got") {
    try {
        isic::detail::fail<isic::value_error>("f", "one", "two");
    } catch (const isic::value_error& e) {
        CHECK(std::string(e.what()) == "isic::f: expected one, got two");
    }
    check_throws<isic::shape_error>("f", [] { isic::detail::require_size("f", "rows", 3, 4); }, {"3 rows", "got 4"});
}

TEST_CASE("ranges include their ends and refuse NaN") {
    CHECK_NOTHROW(isic::detail::require_range("f", "x", 0.0, 0.0, 1.0));
    CHECK_NOTHROW(isic::detail::require_range("f", "x", 1.0, 0.0, 1.0));
    for (const double x :
         {-1e-9, 1 + 1e-9, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
        check_throws<isic::value_error>("f", [&] { isic::detail::require_range("f", "x", x, 0.0, 1.0); },
                                        {"x in [0, 1]"});
    }
}
