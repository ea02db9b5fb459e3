#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>

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
        detail::fail<shape_error>("self_improve", fmt::format("ids [n, T] from {}", source), fmt::format("shape [{}]", fmt::join(all.shape, ", ")));
    }
    token_grid out{{}, all.shape[1]};
    for (const std::int64_t id : all.ids) {
        detail::require<value_error>(std::in_range<std::int32_t>(id), "self_improve", "token ids of 32 bits", fmt::format("{}", id));
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
    return make_value("RoundReport", r.round, object_of(r.self_unsafe), corrected, r.pairs, r.dropped, r.rank, std::string(to_string(r.decided_by)),
                      array_of(r.singular_values), r.merged_rank, object_of(r.projection), r.tuning_steps, r.first_loss, r.last_loss, r.relative_change, r.seconds, r.metrics);
}

/// Calls of the caller's Python code from the loop, which runs without the GIL.
///
/// The first exception is kept and the loop is told by a C++ one; the loop then puts the codebook right, and
/// self_improve decides what becomes of the exception. Ctrl-C arrives as such an exception, between calls as well.
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

/// An object that is freed with the GIL held, wherever that happens.
std::shared_ptr<py::object> keep(py::object object) {
    return {new py::object(std::move(object)), [](py::object* p) {
                const py::gil_scoped_acquire gil;
                delete p;
            }};
}

/// A generator and a judge in Python; what the generator lacks has been ruled out before the loop starts.
class model_in_python final : public detail::loop_model {
public:
    model_in_python(py::handle model, py::handle judge, py::handle codebook, caller& call)
        : model_(model), judge_(judge), codebook_(codebook), call_(call), book_(memory_of(f, "codebook", codebook(), access::edit)),
          redraws_(py::hasattr(model, "redraw")), tunes_(py::hasattr(model, "tuning_loss")) {}

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
            const py::object request = make_value("RedrawRequest", prompts_list(r.prompts), grid_array(r.harmful),
                                                  array_of(std::vector<double>(r.harmfulness.begin(), r.harmfulness.end())), r.attempt, r.seed);
            return grid_of("redraw", model_.attr("redraw")(request));
        });
    }

    std::function<double(index_t, matrix<double>&)> tuning_loss(const tuning_set& s) override {
        auto loss = call_([&] {
            const py::object set = make_value("TuningSet", grid_array(s.harmful), grid_array(s.counterparts), grid_array(s.safe),
                                              array_of(std::vector<double>(s.still_unsafe.begin(), s.still_unsafe.end())),
                                              array_of(std::vector<double>(s.harmfulness.begin(), s.harmfulness.end())), s.round);
            return keep(model_.attr("tuning_loss")(set));
        });
        return [this, loss](index_t step, matrix<double>& gradient) {
            return call_([&] {
                // An array of Python's own: it may outlive the call.
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

edit_target target_of(std::string_view word) {
    return choice<edit_target>("self_improve", "target", word,
                               {{"origin", edit_target::origin}, {"safe_mean", edit_target::safe_mean}, {"counterparts", edit_target::counterparts}});
}

self_improve_options options_of(const py::dict& o) {
    self_improve_options out;
    const auto set = [&]<class T>(const char* name, T& field) { field = option_of<T>("self_improve", name, o[name]); };
    set("unsafe_prompts", out.unsafe_prompts);
    set("safe_prompts", out.safe_prompts);
    set("max_rounds", out.max_rounds);
    set("stop_below", out.stop_below);
    set("min_improvement", out.min_improvement);
    set("significance", out.significance);
    set("patience", out.patience);
    set("damage_budget", out.damage_budget);
    set("unsafe_above", out.unsafe_above);
    set("safe_below", out.safe_below);
    set("counterpart_attempts", out.counterpart_attempts);
    set("judge_sensitivity", out.judge_sensitivity);
    set("judge_specificity", out.judge_specificity);
    set("resample", out.resample);
    set("rank", out.fit.rank.fixed);
    set("energy", out.fit.rank.energy);
    set("gavish_donoho", out.fit.rank.gavish_donoho);
    set("max_rank", out.fit.rank.max_rank);
    out.fit.center = centering_of("self_improve", option_of<std::string>("self_improve", "center", o["center"]));
    set("rank_budget", out.rank_budget);
    out.target = target_of(option_of<std::string>("self_improve", "target", o["target"]));
    set("target_weight", out.target_weight);
    set("per_code_strength", out.per_code_strength);
    set("prior_per_code", out.harmfulness.prior_per_code);
    set("ramp_low", out.ramp.low);
    set("ramp_high", out.ramp.high);
    out.metric = metric_of("self_improve", option_of<std::string>("self_improve", "metric", o["metric"]));
    out.padding = indices_of("self_improve", "padding", o["padding"]);
    set("tuning_steps", out.tuning_steps);
    set("tuning_growth", out.tuning_growth);
    set("tuning_rate", out.tuning.rate);
    set("tuning_beta1", out.tuning.beta1);
    set("tuning_beta2", out.tuning.beta2);
    set("tuning_epsilon", out.tuning.epsilon);
    set("constrain_tuning", out.constrain_tuning);
    set("lock_above", out.lock_above);
    set("tuning_radius", out.tuning_radius);
    set("seed", out.seed);
    return out;
}

/// The same options as isic declares them, so that a test can hold Python's defaults against them.
py::dict default_options() {
    const self_improve_options o;
    return py::dict("max_rounds"_a = o.max_rounds, "stop_below"_a = o.stop_below, "min_improvement"_a = o.min_improvement,
                    "significance"_a = o.significance, "patience"_a = o.patience, "damage_budget"_a = o.damage_budget,
                    "unsafe_above"_a = o.unsafe_above, "safe_below"_a = o.safe_below, "counterpart_attempts"_a = o.counterpart_attempts,
                    "judge_sensitivity"_a = o.judge_sensitivity, "judge_specificity"_a = o.judge_specificity, "resample"_a = o.resample,
                    "energy"_a = o.fit.rank.energy, "gavish_donoho"_a = o.fit.rank.gavish_donoho, "max_rank"_a = o.fit.rank.max_rank,
                    "target_weight"_a = o.target_weight, "per_code_strength"_a = o.per_code_strength,
                    "prior_per_code"_a = o.harmfulness.prior_per_code, "ramp_low"_a = o.ramp.low, "ramp_high"_a = o.ramp.high,
                    "tuning_steps"_a = o.tuning_steps, "tuning_growth"_a = o.tuning_growth, "tuning_rate"_a = o.tuning.rate,
                    "tuning_beta1"_a = o.tuning.beta1, "tuning_beta2"_a = o.tuning.beta2, "tuning_epsilon"_a = o.tuning.epsilon,
                    "constrain_tuning"_a = o.constrain_tuning, "lock_above"_a = o.lock_above, "tuning_radius"_a = o.tuning_radius,
                    "seed"_a = o.seed);
}

/// False of Python or numpy; what a callback without a return statement gives is not.
bool is_false(const py::object& answer) {
    py::detail::make_caster<bool> truth;
    return !answer.is_none() && truth.load(answer, false) && !py::detail::cast_op<bool>(truth);
}

void set_callbacks(self_improve_options& options, caller& call, py::handle rewrite, py::handle on_progress, py::handle on_round, py::handle score) {
    options.rewrite = [&call, rewrite](const std::string& prompt) {
        return call([&] { return option_of<std::string>("self_improve", "what rewrite returns", rewrite(prompt)); });
    };
    options.on_progress = [&call, on_progress](const progress& p) {
        return call([&] {  // also without a callback: this is where Ctrl-C is noticed
            return on_progress.is_none() || !is_false(on_progress(make_value("Progress", p.round, std::string(p.stage), p.done, p.total)));
        });
    };
    if (!on_round.is_none()) {
        options.on_round = [&call, on_round](round_report& r) {
            call([&] {
                const py::object round = object_of_round(r);
                on_round(round);
                r.metrics = option_of<std::map<std::string, double>>("self_improve", "the round's metrics", round.attr("metrics"));
                return 0;
            });
        };
    }
    if (!score.is_none()) {
        options.score = [&call, score](const round_report& r) {
            return call([&] { return option_of<double>("self_improve", "what score returns", score(object_of_round(r))); });
        };
    }
}

/// The fields of isic's SelfImproveReport, and the exception that ended the loop or None.
py::tuple python_self_improve(py::handle model, py::handle judge, py::handle codebook, py::handle rewrite, py::handle on_progress,
                              py::handle on_round, py::handle score, const py::dict& options) {
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
    return py::make_tuple(py::tuple(rounds), r.best_round, std::string(to_string(r.reason)), in_python_words(r.message), object_of(r.merged),
                          array_of(std::move(r.harmfulness)), grid_array(r.harmful), grid_array(r.counterparts), py::tuple(prompts_list(r.prompts)),
                          py::cast(std::move(r.change)), call.exception());
}

}  // namespace

void bind_loop(py::module_& m) {
    py::class_<lexicon>(m, "Lexicon")
        .def(py::init<std::vector<std::pair<std::string, std::string>>>(), "entries"_a)
        .def("rewrite", [](const lexicon& self, const std::string& prompt) {
            const rewritten_prompt out = self.rewrite(prompt);
            return py::make_tuple(out.text, py::tuple(py::cast(out.replaced)));
        }, "prompt"_a);
    m.def("self_improve", &python_self_improve, "generator"_a, "judge"_a, "codebook"_a, "rewrite"_a, "on_progress"_a, "on_round"_a, "score"_a,
          "options"_a);
    m.def("self_improve_defaults", &default_options);
}

}  // namespace isic::python
