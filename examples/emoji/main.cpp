// SPDX-License-Identifier: Apache-2.0
// The demo: a small unified text-to-image model judges its own images and unlearns a harmful concept.
//
// `model` is a generator with a codebook, generate, decode, redraw and tuning_loss; `isic::self_improve` runs the loop.
// Independent checks, baselines and attacks measure the result.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <thread>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <emoji/attacks.hpp>
#include <emoji/baselines.hpp>
#include <emoji/check.hpp>
#include <emoji/grid.hpp>
#include <emoji/measure.hpp>
#include <emoji/model.hpp>

namespace {

using emoji::index_t;
using json = nlohmann::ordered_json;

struct settings {
    std::uint64_t seed = 0;
    index_t rounds = 3;
    std::string out = "out";
    std::string prompt;
    std::string data = ISIC_EMOJI_DATA;
    int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    index_t unsafe = 400, safe = 480;            // evaluation images
    index_t fit_unsafe = 1000, fit_safe = 2800;  // images for the loop
    bool loop_only = false;
};

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

settings parse_arguments(int argc, char** argv) {
    settings s;
    CLI::App app{
        "Removes weapons, cigarettes and syringes from the codebook of a small unified model and measures the "
        "residue."};
    app.add_option("--seed", s.seed, "seed of prompts and images")->capture_default_str();
    app.add_option("--rounds", s.rounds, "rounds of self-improvement")->check(CLI::Range(0, 20))->capture_default_str();
    app.add_option("--out", s.out, "folder for rounds.png and report.json")->capture_default_str();
    app.add_option("--prompt", s.prompt, "draw this prompt before and after, e.g. \"a fox with a knife\"");
    app.add_option("--data", s.data, "folder with weights, sprites and world.json")->capture_default_str();
    app.add_option("--threads", s.threads, "number of threads; the result does not depend on it")
        ->check(CLI::Range(1, 256))
        ->capture_default_str();
    app.add_option("--unsafe", s.unsafe, "unsafe images to evaluate")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option("--safe", s.safe, "safe images to evaluate")->check(CLI::Range(1, 100000))->capture_default_str();
    app.add_option("--fit-unsafe", s.fit_unsafe, "unsafe prompts of the loop")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_option("--fit-safe", s.fit_safe, "safe prompts of the loop")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    app.add_flag("--loop-only", s.loop_only, "skip baselines and attacks");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& e) {
        std::exit(app.exit(e));
    }
    return s;
}

// Prints progress as one line on a terminal, and nothing to a file.
class progress_line {
public:
    bool operator()(const isic::progress& p) {
        if (isatty(STDERR_FILENO) != 0) {
            fmt::print(stderr, "\r\033[K  round {}: {} {}/{}", p.round, p.stage, p.done, p.total);
            std::fflush(stderr);
        }
        return true;
    }
    static void clear() {
        if (isatty(STDERR_FILENO) != 0) {
            fmt::print(stderr, "\r\033[K");
        }
    }
};

json to_json(const emoji::measures& m, index_t rank, double seconds) {
    return {{"self_unsafe", m.self_unsafe},
            {"cnn_unsafe", m.cnn_unsafe},
            {"ghost_unsafe", m.ghost_unsafe},
            {"sprite_unsafe", m.sprite_unsafe},
            {"safe_item", m.safe_item},
            {"safe_object", m.safe_object},
            {"unsafe_item", m.unsafe_item},
            {"psnr_db", m.psnr_db},
            {"rank", rank},
            {"seconds", seconds}};
}

void print_header(std::string_view first, std::size_t width) {
    fmt::print("{:<{}}  self    CNN  ghost sprite | safe   safe unsafe   PSNR | rank    s\n", first, width);
    fmt::print("{:<{}} unsafe unsafe unsafe unsafe | item object   item     dB |\n", "", width);
}

void print_row(std::string_view name, std::size_t width, const emoji::measures& m, index_t rank, double seconds) {
    fmt::print("{:<{}} {:6.1f} {:6.1f} {:6.1f} {:6.1f} |{:5.1f} {:6.1f} {:6.1f} {:6.2f} |{:5} {:4.0f}\n", name, width,
               100 * m.self_unsafe, 100 * m.cnn_unsafe, 100 * m.ghost_unsafe, 100 * m.sprite_unsafe, 100 * m.safe_item,
               100 * m.safe_object, 100 * m.unsafe_item, m.psnr_db, rank, seconds);
    std::fflush(stdout);
}

// Unsafe words and their replacements, as phrases of the prompts.
isic::lexicon unsafe_words(const emoji::world& w) {
    std::vector<std::pair<std::string, std::string>> entries;
    for (const int word : w.harmful_words) {
        const std::string& name = w.words[static_cast<std::size_t>(word)];
        const bool noun = std::ranges::find(w.objects, name) != w.objects.end();
        if (noun) {
            entries.emplace_back("with " + emoji::detail::with_article(name), "alone");
        } else {
            entries.emplace_back(name, "plain");
        }
    }
    return isic::lexicon(std::move(entries));
}

class demo {
public:
    explicit demo(const settings& s)
        : settings_(s),
          folder_(s.data),
          world_(folder_ / "world.json"),
          weights_(folder_ / "emoji.safetensors"),
          renderer_(world_, folder_ / "sprites.safetensors"),
          tokenizer_(weights_, s.threads),
          transformer_(weights_, world_, s.threads),
          cnn_(weights_, world_, "check", s.threads),
          ghost_(weights_, world_, "ghost", s.threads),
          lexicon_(unsafe_words(world_)) {}

    int draw_prompt() {
        output_folder();
        const emoji::prompt p = world_.parse(settings_.prompt);
        const std::string text = world_.text(p);
        emoji::model m(world_, tokenizer_, transformer_);
        prepare_real();
        m.set_terms({.real = &real_});
        fmt::print("drawing \"{}\" before and after {} rounds of self-improvement\n", text, settings_.rounds);
        isic::self_improve_options options = loop_options();
        options.on_round = [](isic::round_report& r) {
            progress_line::clear();
            fmt::print("  round {}: the model calls {:.1f} % of its images unsafe\n", r.round,
                       100 * r.self_unsafe.value);
        };
        isic::self_improve(m, judge_of(m), options);
        const std::vector<emoji::prompt> eight(8, p);
        const emoji::token_ids ids = transformer_.sample(eight, {.seed = emoji::mix_bits(settings_.seed) + 99});
        const emoji::matrix before = m.decode_with(tokenizer_.codebook(), ids), after = m.decode(ids);
        const auto path = output_folder() / "prompt.png";
        emoji::write_grid(path, std::vector<std::string>(8, caption(text)), {{"before", before}, {"after", after}}, 8);
        const auto seen = [&](const emoji::matrix& images) {
            std::vector<std::string> names;
            for (const int k : cnn_.objects(images)) {
                names.push_back(world_.objects[static_cast<std::size_t>(k)]);
            }
            return fmt::format("{}", fmt::join(names, ", "));
        };
        fmt::print("second object seen by the independent CNN\n  before: {}\n  after:  {}\nwrote {}\n", seen(before),
                   seen(after), path.string());
        return 0;
    }

    int run() {
        const double start = now();
        output_folder();  // fails early if the folder cannot be made
        fmt::print("drawing {} unsafe and {} safe images for the evaluation\n", settings_.unsafe, settings_.safe);
        evaluation_.emplace(world_, renderer_, tokenizer_, transformer_, cnn_, ghost_, settings_.seed, settings_.unsafe,
                            settings_.safe, settings_.threads);
        prepare_real();
        report_["seed"] = settings_.seed;
        run_loop();
        if (!settings_.loop_only) {
            run_baselines();
            run_attacks();
        }
        write_files();
        fmt::print("\ntotal {:.0f} s\n", now() - start);
        return 0;
    }

private:
    static constexpr index_t baseline_tuning_steps = 400;

    std::filesystem::path output_folder() const {
        std::filesystem::create_directories(settings_.out);
        return settings_.out;
    }

    static std::string caption(std::string text) {
        for (const char* word : {" with ", " on ", " alone"}) {
            if (const auto at = text.find(word); at != std::string::npos) {
                text[at] = '\n';
            }
        }
        return text;
    }

    // Real safe images, such as the owner of a generator has. They are rendered, not drawn by the model.
    void prepare_real() {
        real_.images = renderer_.random_images(2000, 1, {.plain = 0.42, .safe = 0.58, .harmful = 0}).images;
        real_.ids = tokenizer_.quantise(tokenizer_.encode(real_.images), tokenizer_.codebook());
    }

    std::function<std::vector<double>(const emoji::matrix&)> judge_of(const emoji::model& m) const {
        return [&m](const emoji::matrix& images) { return m.judge(images); };
    }

    isic::self_improve_options loop_options() const {
        isic::self_improve_options o;
        const std::uint64_t seed = emoji::mix_bits(settings_.seed);
        for (const emoji::prompt& p : world_.unsafe_prompts(settings_.fit_unsafe, world_.fit_items, seed + 1)) {
            o.unsafe_prompts.push_back(world_.text(p));
            if (static_cast<index_t>(o.safe_prompts.size()) < settings_.fit_safe * 5 / 14) {
                o.safe_prompts.push_back(lexicon_.rewrite(o.unsafe_prompts.back()).text);
            }
        }
        for (const emoji::prompt& p :
             world_.safe_prompts(settings_.fit_safe - static_cast<index_t>(o.safe_prompts.size()), seed + 4)) {
            o.safe_prompts.push_back(world_.text(p));
        }
        o.rewrite = [this](const std::string& prompt) { return lexicon_.rewrite(prompt).text; };
        o.stop.max_rounds = settings_.rounds;
        o.judging.unsafe_above = o.judging.safe_below = emoji::evaluation::judge_threshold;
        o.judging.counterpart_attempts = 4;
        o.resample = false;  // the transformer reads the original codes, so its tokens do not change
        o.rank_budget = tokenizer_.dim();
        o.fit.rank.fixed = 6;
        // A short first round; the longer rounds then learn from the images that are still unsafe.
        o.tuning.steps = 15;
        o.tuning.growth = 5;
        o.tuning.constrained = false;  // the pair term keeps the concept out, and needs steps inside the subspace
        o.seed = seed;
        o.on_progress = progress_line();
        return o;
    }

    void run_loop() {
        emoji::model m(world_, tokenizer_, transformer_, {.real = &real_});
        isic::self_improve_options options = loop_options();
        fmt::print("\nself-improvement: {} unsafe and {} safe prompts, at most {} rounds\n",
                   options.unsafe_prompts.size(), options.safe_prompts.size(), options.stop.max_rounds);
        fmt::print(
            "in % of the images: unsafe for the model's own judge, for a CNN, for a CNN trained on faint objects "
            "(ghost), and by sprite match;\n"
            "safe items and objects, and items of unsafe prompts, retained. PSNR of real images. s: seconds\n");
        print_header("round", 8);
        json rounds = json::array();
        options.on_round = [&](isic::round_report& r) {
            progress_line::clear();
            const emoji::measures here = evaluation_->measure(m.codebook());
            print_row(fmt::format("{}", r.round), 8, here, r.merged_rank, r.seconds);
            json row = {{"round", r.round}};
            row.update(to_json(here, r.merged_rank, r.seconds));
            row["fit_self_unsafe"] = r.self_unsafe.value;
            row["pairs"] = r.pairs;
            row["dropped"] = r.dropped;
            row["rank_of_round"] = r.rank;
            row["rank_decided_by"] = isic::to_string(r.decided_by);
            row["singular_values"] = r.singular_values;
            row["nearest_code_churn"] = evaluation_->nearest_code_churn(m.codebook());
            row["codes_moved_by_projection"] = r.projection.moved;
            row["relative_change"] = r.relative_change;
            row["first_loss"] = r.first_loss;
            row["last_loss"] = r.last_loss;
            rounds.push_back(std::move(row));
            books_.push_back(m.codebook());
            measured_.push_back(here);
        };
        const double start = now();
        result_ = isic::self_improve(m, judge_of(m), options);
        progress_line::clear();
        fmt::print("stopped: {}{}{}; kept round {}; {:.0f} s\n", isic::to_string(result_.reason),
                   result_.message.empty() ? "" : ": ", result_.message, result_.best_round, now() - start);
        best_ = m.codebook();
        report_["rounds"] = rounds;
        report_["n"] = evaluation_->counts();
        report_["n"]["fit_self_unsafe"] = options.unsafe_prompts.size();
        report_["best_round"] = result_.best_round;
        report_["stop_reason"] = isic::to_string(result_.reason);
        report_["loop_seconds"] = now() - start;
        const emoji::measures& kept = measured_.at(static_cast<std::size_t>(result_.best_round));
        report_["left_by_object"] = kept.left_by_object;
        report_["safe_by_object"] = kept.safe_by_object;
    }

    void run_baselines() {
        fmt::print("\nbaselines on the same images\n");
        constexpr std::size_t width = 42;
        print_header("method", width);
        json rows = json::object();
        const auto add = [&](const std::string& name, const emoji::measures& m, index_t rank, double seconds) {
            print_row(name, width, m, rank, seconds);
            rows[name] = to_json(m, rank, seconds);
        };
        add("no edit", measured_.front(), 0, 0);
        const auto replaced = emoji::without_unsafe_words(world_, evaluation_->unsafe_prompts());
        add("prompt-rewriting baseline",
            evaluation_->measure(tokenizer_.codebook(),
                                 transformer_.sample(replaced, {.seed = emoji::mix_bits(settings_.seed) + 12})),
            0, 0);
        const emoji::surgery_data data = data_of_first_round();
        const emoji::baselines others(
            tokenizer_, data,
            [&](emoji::loss_terms terms) { return emoji::model(world_, tokenizer_, transformer_, terms); }, real_,
            baseline_tuning_steps);
        for (const emoji::baseline& b : others.all()) {
            const double start = now();
            const emoji::matrix book = b.book();
            const double seconds = now() - start;
            add(b.name, evaluation_->measure(book), b.rank, seconds);
        }
        add_own_images_only(add);
        add("self-improvement, with real safe images", measured_.at(static_cast<std::size_t>(result_.best_round)),
            result_.merged.rank(), report_["loop_seconds"].get<double>());
        report_["baselines"] = rows;
    }

    // Pairs, harmfulness and safe images of the first round.
    emoji::surgery_data data_of_first_round() {
        emoji::model m(world_, tokenizer_, transformer_);
        isic::self_improve_options o = loop_options();
        o.stop.max_rounds = 1;
        o.tuning.steps = 0;
        o.on_progress = {};
        const isic::self_improve_report first = isic::self_improve(m, judge_of(m), o);
        emoji::surgery_data data{first.harmful, first.counterparts, {}, first.harmfulness};
        data.safe = m.generate(o.safe_prompts, isic::detail::mix(o.seed) + 1);
        return data;
    }

    // The same loop without real images.
    template <class Add>
    void add_own_images_only(const Add& add) {
        const double start = now();
        emoji::model m(world_, tokenizer_, transformer_);
        const isic::self_improve_report result = isic::self_improve(m, judge_of(m), loop_options());
        progress_line::clear();
        const double seconds = now() - start;
        add("self-improvement, own images only", evaluation_->measure(m.codebook()), result.merged.rank(), seconds);
    }

    void run_attacks() {
        fmt::print(
            "\nattacks: share of images in which the CNN sees a harmful object, in %\n{:<34} {:>8} {:>8} {:>16}\n", "",
            "before", "after", "prompt rewriting");
        json rows = json::object();
        for (const emoji::attack_result& a : emoji::run_attacks(world_, renderer_, tokenizer_, transformer_,
                                                                *evaluation_, best_, settings_.seed, 200)) {
            fmt::print("{:<34} {:8.1f} {:8.1f} {:16.1f}\n", a.name, 100 * a.before, 100 * a.after,
                       100 * a.prompt_rewriting);
            rows[a.name] = {{"before", a.before}, {"after", a.after}, {"prompt_rewriting", a.prompt_rewriting}};
        }
        report_["attacks"] = rows;
        fmt::print("the tokenizer and the transformer use the original codebook, the decoder uses the edited one\n");
    }

    void write_files() {
        const auto folder = output_folder();
        std::vector<std::string> captions;
        emoji::token_ids ids;
        const auto show = [&](const std::vector<emoji::prompt>& prompts, const emoji::token_ids& tokens,
                              std::size_t columns) {
            for (std::size_t i = 0; i < prompts.size() && captions.size() < columns; ++i) {
                const std::string words = caption(world_.text(prompts[i]));
                if (std::ranges::find(captions, words) == captions.end()) {  // random prompts repeat
                    captions.push_back(words);
                    const auto image = tokens.begin() + static_cast<index_t>(i) * emoji::tokenizer::tokens;
                    ids.insert(ids.end(), image, image + emoji::tokenizer::tokens);
                }
            }
        };
        show(evaluation_->unsafe_prompts(), evaluation_->unsafe_ids(), 7);
        const auto unsafe = std::ssize(captions);
        show(evaluation_->safe_prompts(), evaluation_->safe_ids(), 12);
        std::vector<emoji::grid_row> rows;
        for (std::size_t r = 0; r < books_.size(); ++r) {
            rows.push_back(
                {r == 0 ? "before" : fmt::format("round {}", r), tokenizer_.decode(emoji::gather(books_[r], ids))});
        }
        emoji::write_grid(folder / "rounds.png", captions, rows, unsafe);
        std::ofstream out(folder / "report.json");
        out << report_.dump(2) << '\n';
        if (!out) {
            throw isic::io_error(fmt::format("emoji: {}: cannot be written", (folder / "report.json").string()));
        }
        fmt::print("\nwrote {} and {}\n", (folder / "rounds.png").string(), (folder / "report.json").string());
    }

    settings settings_;
    std::filesystem::path folder_;
    emoji::world world_;
    emoji::weights weights_;
    emoji::renderer renderer_;
    emoji::tokenizer tokenizer_;
    emoji::transformer transformer_;
    emoji::check cnn_;
    emoji::check ghost_;
    isic::lexicon lexicon_;
    std::optional<emoji::evaluation> evaluation_;
    emoji::encoded_images real_;
    isic::self_improve_report result_;
    emoji::matrix best_;
    std::vector<emoji::matrix> books_;
    std::vector<emoji::measures> measured_;
    json report_;
};

}  // namespace

int main(int argc, char** argv) {
    const settings s = parse_arguments(argc, argv);
    try {
        demo d(s);
        return s.prompt.empty() ? d.run() : d.draw_prompt();
    } catch (const std::exception& e) {
        fmt::print(stderr, "isic_emoji_demo: {}\n", e.what());
        return 1;
    }
}
