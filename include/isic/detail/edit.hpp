// SPDX-License-Identifier: Apache-2.0
/// \file
/// Access to the fields of an edit.
#pragma once

#include <isic/edit.hpp>

namespace isic::inline ISIC_ABI::detail {

/// The fields of an edit, for code that builds or stores edits.
struct edit_access {
    static edit for_codebook(any_view codes) { return edit::for_codebook(codes); }
    static edit between(any_view before, any_view after) { return edit::between_rows(before, after); }
    static auto& rows(edit& e) { return e.rows_; }
    static auto& cols(edit& e) { return e.cols_; }
    static auto& type(edit& e) { return e.type_; }
    static auto& ids(edit& e) { return e.ids_; }
    static auto& before(auto& e) { return e.before_; }
    static auto& after(auto& e) { return e.after_; }
    static auto& fingerprint_before(edit& e) { return e.fingerprint_before_; }
    static auto& fingerprint_after(edit& e) { return e.fingerprint_after_; }
};

}  // namespace isic::inline ISIC_ABI::detail
