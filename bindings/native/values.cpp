// SPDX-License-Identifier: Apache-2.0
#include "values.hpp"

#include <map>
#include <string>

namespace isic::python {
namespace {

void require_class(std::string_view function, std::string_view name, py::handle object, const char* expected) {
    if (!py::isinstance(object, member("isic._results", expected))) {
        const auto got = py::str(py::type::of(object).attr("__qualname__")).cast<std::string>();
        throw py::type_error(in_python_words(
            fmt::format("isic::{}: expected {} to be an isic.{}, got {}", function, name, expected, got)));
    }
}

}  // namespace

py::object member(const char* module, const char* name) {
    return py::module_::import(module).attr(name);
}

py::object object_of(const code_usage& usage) {
    return make_value("CodeUsage", array_of(usage.harmful), array_of(usage.safe));
}

py::object object_of(const code_scores& s) {
    return make_value("CodeScores", array_of(s.harmfulness), array_of(s.z), array_of(s.p_harmful), array_of(s.p_safe));
}

py::object object_of(const rank_choice& chosen) {
    return make_value("RankChoice", chosen.rank, std::string(to_string(chosen.decided_by)));
}

py::object object_of(const subspace& s) {
    return make_value("Subspace", array_of(s.basis), array_of(s.singular_values), s.energy, object_of(s.chosen));
}

py::object object_of(const leakage_report& r) {
    return make_value("LeakageReport", r.total, r.largest);
}

py::object object_of(const edit_summary& s) {
    return make_value("EditSummary", s.moved, s.near_zero, s.relative_change, object_of(s.before), object_of(s.after));
}

py::object object_of(const update_summary& s) {
    return make_value("UpdateSummary", s.moved, s.overflowed, s.largest_step);
}

py::object object_of(const drift_report& r) {
    return make_value("DriftReport", r.relative, r.mean, r.largest, r.moved);
}

py::object object_of(const rate& r) {
    return make_value("Rate", r.value, r.low, r.high, r.hits, r.n);
}

subspace subspace_of(std::string_view function, std::string_view name, py::handle object) {
    require_class(function, name, object, "Subspace");
    subspace out;
    out.basis = doubles(function, "basis", object.attr("basis")).copy();
    out.singular_values = vector_of(function, "singular_values", object.attr("singular_values"));
    out.energy = object.attr("energy").cast<double>();
    const py::object chosen = object.attr("chosen");
    out.chosen = {out.basis.cols(), rank_rule_of(function, chosen.attr("decided_by").cast<std::string>())};
    return out;
}

code_usage usage_of(std::string_view function, py::handle object) {
    require_class(function, "usage", object, "CodeUsage");
    return {vector_of(function, "harmful counts", object.attr("harmful")),
            vector_of(function, "safe counts", object.attr("safe"))};
}

rate rate_of(std::string_view function, py::handle object) {
    require_class(function, "rate", object, "Rate");
    return {object.attr("value").cast<double>(), object.attr("low").cast<double>(), object.attr("high").cast<double>(),
            object.attr("hits").cast<index_t>(), object.attr("n").cast<index_t>()};
}

assignments assignments_of(std::string_view function, py::handle object) {
    require_class(function, "the batch", object, "Assignments");
    return {vector_of(function, "counts", object.attr("counts")),
            doubles(function, "sums", object.attr("sums")).copy()};
}

constraint constraint_of(std::string_view function, py::handle object) {
    if (object.is_none()) {
        return {};
    }
    require_class(function, "constraint", object, "Constraint");
    constraint out;
    const auto locked = marks_of(function, "constraint.locked", object.attr("locked"));
    out.locked.assign(locked.data(), locked.data() + locked.size());
    if (const py::object harm = object.attr("orthogonal_to"); !harm.is_none()) {
        out.orthogonal_to = subspace_of(function, "constraint.orthogonal_to", harm);
    }
    out.keep_norms = option_of<bool>(function, "constraint.keep_norms", object.attr("keep_norms"));
    out.within = option_of<double>(function, "constraint.within", object.attr("within"));
    out.anchor = doubles(function, "constraint.anchor", object.attr("anchor")).copy();
    out.execution = {.threads = option_of<int>(function, "constraint.threads", object.attr("threads"))};
    return out;
}

rank_rule rank_rule_of(std::string_view function, std::string_view word) {
    return choice<rank_rule>(function, "decided_by", word,
                             {{"fixed", rank_rule::fixed},
                              {"energy", rank_rule::energy},
                              {"gavish_donoho", rank_rule::gavish_donoho},
                              {"sign_flip", rank_rule::sign_flip},
                              {"budget", rank_rule::budget},
                              {"data", rank_rule::data}});
}

centering centering_of(std::string_view function, std::string_view word) {
    return choice<centering>(
        function, "center", word,
        {{"none", centering::none}, {"mean", centering::mean}, {"safe_axis", centering::safe_axis}});
}

metric metric_of(std::string_view function, std::string_view word) {
    return choice<metric>(function, "metric", word, {{"l2", metric::l2}, {"cosine", metric::cosine}});
}

near_zero_policy near_zero_policy_of(std::string_view function, std::string_view word) {
    return choice<near_zero_policy>(function, "near_zero", word,
                                    {{"nearest_safe", near_zero_policy::nearest_safe},
                                     {"skip", near_zero_policy::skip},
                                     {"zero", near_zero_policy::zero},
                                     {"error", near_zero_policy::error}});
}

}  // namespace isic::python
