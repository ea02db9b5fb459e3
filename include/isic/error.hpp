// SPDX-License-Identifier: Apache-2.0
/// \file
/// The exceptions of isic. Every function throws before it writes; numerical outcomes are fields of results, not
/// exceptions.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

#include <isic/detail/config.hpp>

namespace isic::inline ISIC_ABI {

/// The base class of all exceptions of isic. Messages read "isic::function: expected ..., got ...".
///
/// \snippet snippets.cpp error
class ISIC_API error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

/// Sizes or strides that do not match.
class ISIC_API shape_error : public error {
public:
    using error::error;
};

/// An argument outside its range: an option, an id, a probability, memory that overlaps.
class ISIC_API value_error : public error {
public:
    using error::error;
};

/// NaN, infinity, or data that do not determine a result.
class ISIC_API numeric_error : public error {
public:
    using error::error;
};

/// A file that cannot be read or written, or that is malformed.
class ISIC_API io_error : public error {
public:
    using error::error;
};

/// A failure of a device or of its libraries.
class ISIC_API backend_error : public error {
public:
    using error::error;
};

namespace detail {

/// "isic::function: expected ..., got ...".
ISIC_API std::string message(std::string_view function, std::string_view expected, std::string_view got);

/// Throws Error with the message "isic::function: expected ..., got ...".
template <class Error>
[[noreturn]] void fail(std::string_view function, std::string_view expected, std::string_view got) {
    throw Error(message(function, expected, got));
}

/// Throws Error unless ok.
template <class Error>
void require(bool ok, std::string_view function, std::string_view expected, std::string_view got) {
    if (!ok) {
        fail<Error>(function, expected, got);
    }
}

}  // namespace detail
}  // namespace isic::inline ISIC_ABI

#ifdef ISIC_HEADER_ONLY
#include <isic/detail/error-inl.hpp>
#endif
