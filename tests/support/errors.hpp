// SPDX-License-Identifier: Apache-2.0
// Exactly one type of error, with a message that names the function, what was expected and what came.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <typeinfo>

#include <doctest/doctest.h>

#include <isic/error.hpp>

namespace isic_test {

/// Fails unless f throws exactly Error and the message holds "isic::function: expected ..., got ..." and the words.
template <class Error, class F>
void check_throws(std::string_view function, F f, std::initializer_list<std::string_view> words = {}) {
    std::string message;
    bool exact = false;
    try {
        f();
        message = "nothing was thrown";
    } catch (const isic::error& e) {
        exact = typeid(e) == typeid(Error);
        message = e.what();
    }
    INFO(function, " said: ", message);
    CHECK(exact);
    const std::string start = "isic::" + std::string(function) + ": expected ";
    CHECK(message.substr(0, start.size()) == start);
    CHECK(message.find(", got ") != std::string::npos);
    for (const std::string_view word : words) {
        INFO("looking for ", std::string(word));
        CHECK(message.find(word) != std::string::npos);
    }
}

}  // namespace isic_test
