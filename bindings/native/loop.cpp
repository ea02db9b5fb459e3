// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <type_traits>

#include <isic/lexicon.hpp>
#include <isic/loop.hpp>

#include "module.hpp"
#include "values.hpp"

namespace isic::python {
namespace {

py::array grid_array(const token_grid& grid) {
    return array_of(std::vector<std::int32_t>(grid.ids), {grid.images(), grid.tokens_per_image});
}

token_grid grid_of(const char* source, py::handle tokens) {
    const id_array all = ids_of("self_improve", fmt::format("the tokens of {}", source), tokens);
    if (all.shape.size() != 2) {
        detail::fail<shape_error>("self_improve", fmt::format("ids [n, T] from {}", source),
                                  fmt::format("shape [{}]", fmt::join(all.shape, ", ")));
    }
    token_grid out{{}, all.shape[1]};
    for (const std::int64_t id : all.ids) {
        detail::require<value_error>(std::in_range<std::int32_t>(id), "self_improve", "token ids of 32 bits",
                                     fmt::format("{}", id));
        out.ids.push_back(static_cast<std::int32_t>(id));
    }
    return out;
}

py::list prompts_list(std::span<const std::string> prompts) {
    py::list out;
    for (const std::string& prompt : prompts) {
        out.append(prompt);
    }
    return out;
}

py::object object_of_round(const round_report& r) {
    const py::object corrected = r.corrected_unsafe ? object_of(*r.corrected_unsafe) : py::none();
    return make_value("RoundReport", r.round, object_of(r.self_unsafe), corrected, r.pairs, r.dropped, r.rank,
                      std::string(to_string(r.decided_by)), array_of(r.singular_values), r.merged_rank,
                      object_of(r.projection), r.tuning_steps, r.first_loss, r.last_loss, r.relative_change, r.seconds,
                      r.metrics);
}

/// Calls Python code of the caller from the loop, which runs without the GIL.
///
/// It keeps the Python exception and throws a C++ one to the loop. The loop restores the best codebook, and self_improve then
/// returns or raises the exception. Ctrl-C is such an exception, between calls too.
class caller {
public:
    template <class F>
    auto operator()(F&& f) {
        const py::gil_scoped_acquire gil;
        try {
            if (PyErr_CheckSignals() != 0) {
                throw py::error_already_set();
            }
            return f();
        } catch (const py::error_already_set& e) {
            exception_ = e.value();
            if (e.trace()) {
                PyException_SetTraceback(exception_.ptr(), e.trace().ptr());
            }
            const auto type = py::str(e.type().attr("__name__")).cast<std::string>();
            throw std::runtime_error(fmt::format("{}: {}", type, py::str(e.value()).cast<std::string>()));
        }
    }

    const py::object& exception() const { return exception_; }

private:
    py::object exception_ = py::none();
};

/// A reference that acquires the GIL to free its object, in any thread.
std::shared_ptr<py::object> keep(py::object object) {
    return {new py::object(std::move(object)), [](py::object* p) {
                const py::gil_scoped_acquire gil;
                delete p;
            }};
}

/// A generator and a judge in Python. Python has checked that the required members exist.
class model_in_python final : public detail::loop_model {
public:
    model_in_python(py::handle model, py::handle judge, py::handle codebook, caller& call)
        : model_(model),
          judge_(judge),
          codebook_(codebook),
          call_(call),
          book_(memory_of(f, "codebook", codebook(), access::edit)),
          redraws_(py::hasattr(model, "redraw")),
          tunes_(py::hasattr(model, "tuning_loss")) {}

    any_span codebook() override { return book_.span(); }
    bool redraws() const override { return redraws_; }
    bool tunes() const override { return tunes_; }
    void note_edit() const { book_.note_edit(); }

    token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) override {
        return call_([&] { return grid_of("generate", model_.attr("generate")(prompts_list(prompts), seed)); });
    }

    std::vector<double> judge(const token_grid& tokens) override {
        return call_([&] {
            require_codebook_in_place();
            const py::object images = model_.attr("decode")(grid_array(tokens));
            return vector_of(f, "the judge's answer", judge_(images));
        });
    }

    token_grid redraw(const redraw_request& r) override {
        return call_([&] {
            const py::object request = make_value(
                "RedrawRequest", prompts_list(r.prompts), grid_array(r.harmful),
                array_of(std::vector<double>(r.harmfulness.begin(), r.harmfulness.end())), r.attempt, r.seed);
            return grid_of("redraw", model_.attr("redraw")(request));
        });
    }

    std::function<double(index_t, matrix<double>&)> tuning_loss(const tuning_set& s) override {
        auto loss = call_([&] {
            const py::object set =
                make_value("TuningSet", grid_array(s.harmful), grid_array(s.counterparts), grid_array(s.safe),
                           array_of(std::vector<double>(s.still_unsafe.begin(), s.still_unsafe.end())),
                           array_of(std::vector<double>(s.harmfulness.begin(), s.harmfulness.end())), s.round);
            return keep(model_.attr("tuning_loss")(set));
        });
        return [this, loss](index_t step, matrix<double>& gradient) {
            return call_([&] {
                // An array that owns its memory, because the callback may keep it.
                const py::array_t<double> out(std::vector<py::ssize_t>{gradient.rows(), gradient.cols()});
                std::copy_n(gradient.data(), out.size(), const_cast<double*>(out.data()));
                const double value = option_of<double>(f, "the tuning loss", (*loss)(step, out));
                std::copy_n(out.data(), out.size(), gradient.data());
                return value;
            });
        };
    }

private:
    static constexpr const char* f = "self_improve";

    void require_codebook_in_place() const {
        const memory now = memory_of(f, "codebook", codebook_(), access::edit);
        detail::require<value_error>(now.data == book_.data, f, "a codebook that stays in its memory",
                                     "another address; copy new values into the old memory");
        now.note_edit();
    }

    py::handle model_;
    py::handle judge_;
    py::handle codebook_;
    caller& call_;
    memory book_;
    bool redraws_;
    bool tunes_;
};

/// Python's words for the values of an enumeration.
template <class E>
constexpr std::array<std::pair<std::string_view, E>, 0> words_of{};
template <>
constexpr std::array<std::pair<std::string_view, edit_target>, 3> words_of<edit_target>{
    {{"origin", edit_target::origin},
     {"safe_mean", edit_target::safe_mean},
     {"counterparts", edit_target::counterparts}}};
template <>
constexpr std::array<std::pair<std::string_view, centering>, 3> words_of<centering>{
    {{"none", centering::none}, {"mean", centering::mean}, {"safe_axis", centering::safe_axis}}};
template <>
constexpr std::array<std::pair<std::string_view, metric>, 2> words_of<metric>{
    {{"l2", metric::l2}, {"cosine", metric::cosine}}};

/// A number whose 0 is None in Python.
template <class T>
struct or_none {
    T& value;
};
template <class T>
or_none(T&) -> or_none<T>;

/// Calls visit(path, field) for every option with a default. A path is "group.field" or the name of a parameter, as in Python.
/// This is the one list of the options in the bindings.
template <class Options, class Visit>
void for_each_option(Options& o, Visit&& visit) {
    visit("stop.max_rounds", o.stop.max_rounds);
    visit("stop.below", o.stop.below);
    visit("stop.min_improvement", o.stop.min_improvement);
    visit("stop.significance", o.stop.significance);
    visit("stop.patience", o.stop.patience);
    visit("stop.damage_budget", o.stop.damage_budget);
    visit("judging.unsafe_above", o.judging.unsafe_above);
    visit("judging.safe_below", o.judging.safe_below);
    visit("judging.counterpart_attempts", o.judging.counterpart_attempts);
    visit("judging.sensitivity", o.judging.sensitivity);
    visit("judging.specificity", o.judging.specificity);
    visit("rank.fixed", or_none{o.fit.rank.fixed});
    visit("rank.energy", or_none{o.fit.rank.energy});
    visit("rank.gavish_donoho", o.fit.rank.gavish_donoho);
    visit("rank.max_rank", or_none{o.fit.rank.max_rank});
    visit("rank.budget", or_none{o.rank_budget});
    visit("centering", o.fit.center);
    visit("editing.target", o.editing.target);
    visit("editing.target_weight", o.editing.target_weight);
    visit("editing.per_code_strength", o.editing.per_code_strength);
    visit("editing.prior_per_code", o.editing.harmfulness.prior_per_code);
    visit("editing.ramp_low", o.editing.ramp.low);
    visit("editing.ramp_high", o.editing.ramp.high);
    visit("editing.metric", o.editing.metric);
    visit("editing.padding", o.editing.padding);
    visit("tuning.steps", o.tuning.steps);
    visit("tuning.growth", o.tuning.growth);
    visit("tuning.rate", o.tuning.adam.rate);
    visit("tuning.beta1", o.tuning.adam.beta1);
    visit("tuning.beta2", o.tuning.adam.beta2);
    visit("tuning.epsilon", o.tuning.adam.epsilon);
    visit("tuning.constrained", o.tuning.constrained);
    visit("tuning.lock_above", o.tuning.lock_above);
    visit("tuning.radius", o.tuning.radius);
    visit("resample", o.resample);
    visit("seed", o.seed);
}

/// Reads options from a dictionary of parameters, in which a group is an object with its options as attributes.
class option_reader {
public:
    explicit option_reader(const py::dict& given) : given_(given) {}

    template <class T>
    void operator()(const char* path, T& field) const {
        const py::object value = at(path);
        if constexpr (std::is_enum_v<T>) {
            const auto word = option_of<std::string>(f, path, value);
            field = std::apply([&](const auto&... words) { return choice<T>(f, path, word, {words...}); }, words_of<T>);
        } else if constexpr (std::is_same_v<T, std::vector<index_t>>) {
            field = indices_of(f, path, value);
        } else {
            field = option_of<T>(f, path, value);
        }
    }

    template <class T>
    void operator()(const char* path, or_none<T> field) const {
        const py::object value = at(path);
        field.value = value.is_none() ? T{} : option_of<T>(f, path, value);
    }

private:
    static constexpr const char* f = "self_improve";

    py::object at(std::string_view path) const {
        const auto dot = path.find('.');
        const py::object outer = given_[py::str(std::string(path.substr(0, dot)))];
        return dot == std::string_view::npos ? outer : outer.attr(py::str(std::string(path.substr(dot + 1))));
    }

    const py::dict& given_;
};

self_improve_options options_of(const py::dict& given) {
    self_improve_options out;
    const option_reader read(given);
    read("unsafe_prompts", out.unsafe_prompts);
    read("safe_prompts", out.safe_prompts);
    for_each_option(out, read);
    return out;
}

/// Writes options to a dictionary of parameters, in which a group is a dictionary.
class option_writer {
public:
    template <class T>
    void operator()(std::string_view path, const T& field) {
        if constexpr (std::is_enum_v<T>) {
            put(path, py::str(std::ranges::find(words_of<T>, field, &std::pair<std::string_view, T>::second)->first));
        } else if constexpr (std::is_same_v<T, std::vector<index_t>>) {
            put(path, field.empty() ? py::object(py::none()) : py::cast(field));
        } else {
            put(path, py::cast(field));
        }
    }

    template <class T>
    void operator()(std::string_view path, or_none<T> field) {
        put(path, field.value == 0 ? py::object(py::none()) : py::cast(field.value));
    }

    py::dict take() { return std::move(out_); }

private:
    void put(std::string_view path, const py::object& value) {
        const auto dot = path.find('.');
        const py::str outer{std::string(path.substr(0, dot))};
        if (dot == std::string_view::npos) {
            out_[outer] = value;
            return;
        }
        if (!out_.contains(outer)) {
            out_[outer] = py::dict();
        }
        out_[outer][py::str(std::string(path.substr(dot + 1)))] = value;
    }

    py::dict out_;
};

/// The defaults of the library. A test compares them with those of the Python classes.
py::dict default_options() {
    const self_improve_options options;
    option_writer write;
    for_each_option(options, write);
    return write.take();
}

/// True for False of Python or numpy, not for None, which a callback without a return statement gives.
bool is_false(const py::object& answer) {
    py::detail::make_caster<bool> truth;
    return !answer.is_none() && truth.load(answer, false) && !py::detail::cast_op<bool>(truth);
}

void set_callbacks(self_improve_options& options, caller& call, py::handle rewrite, py::handle on_progress,
                   py::handle on_round, py::handle score) {
    options.rewrite = [&call, rewrite](const std::string& prompt) {
        return call([&] { return option_of<std::string>("self_improve", "what rewrite returns", rewrite(prompt)); });
    };
    options.on_progress = [&call, on_progress](const progress& p) {
        return call([&] {  // without a callback too: the call checks for Ctrl-C
            return on_progress.is_none() ||
                   !is_false(on_progress(make_value("Progress", p.round, std::string(p.stage), p.done, p.total)));
        });
    };
    if (!on_round.is_none()) {
        options.on_round = [&call, on_round](round_report& r) {
            call([&] {
                const py::object round = object_of_round(r);
                on_round(round);
                r.metrics = option_of<std::map<std::string, double>>("self_improve", "the round's metrics",
                                                                     round.attr("metrics"));
                return 0;
            });
        };
    }
    if (!score.is_none()) {
        options.score = [&call, score](const round_report& r) {
            return call(
                [&] { return option_of<double>("self_improve", "what score returns", score(object_of_round(r))); });
        };
    }
}

/// The fields of SelfImproveReport, and the exception that ended the loop or None.
py::tuple python_self_improve(py::handle model, py::handle judge, py::handle codebook, py::handle rewrite,
                              py::handle on_progress, py::handle on_round, py::handle score, const py::dict& options) {
    caller call;
    self_improve_options how = options_of(options);
    set_callbacks(how, call, rewrite, on_progress, on_round, score);
    model_in_python both(model, judge, codebook, call);
    self_improve_report r = unlocked([&] { return detail::self_improve(both, how); });
    both.note_edit();
    py::list rounds;
    for (const round_report& round : r.rounds) {
        rounds.append(object_of_round(round));
    }
    return py::make_tuple(py::tuple(rounds), r.best_round, std::string(to_string(r.reason)), in_python_words(r.message),
                          object_of(r.merged), array_of(std::move(r.harmfulness)), grid_array(r.harmful),
                          grid_array(r.counterparts), py::tuple(prompts_list(r.prompts)), py::cast(std::move(r.change)),
                          call.exception());
}

}  // namespace

void bind_loop(py::module_& m) {
    py::class_<lexicon>(m, "Lexicon")
        .def(py::init<std::vector<std::pair<std::string, std::string>>>(), "entries"_a)
        .def(
            "rewrite",
            [](const lexicon& self, const std::string& prompt) {
                const rewritten_prompt out = self.rewrite(prompt);
                return py::make_tuple(out.text, py::tuple(py::cast(out.replaced)));
            },
            "prompt"_a);
    m.def("self_improve", &python_self_improve, "generator"_a, "judge"_a, "codebook"_a, "rewrite"_a, "on_progress"_a,
          "on_round"_a, "score"_a, "options"_a);
    m.def("self_improve_defaults", &default_options);
}

}  // namespace isic::python
