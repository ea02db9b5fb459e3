// SPDX-License-Identifier: Apache-2.0
// The demo's networks against PyTorch with the same weights (vectors.safetensors), and their documented properties.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <emoji/check.hpp>
#include <emoji/nn.hpp>
#include <emoji/random.hpp>
#include <emoji/render.hpp>
#include <emoji/tokenizer.hpp>
#include <emoji/top_k.hpp>
#include <emoji/transformer.hpp>
#include <emoji/world.hpp>
#include <isic/io/safetensors.hpp>

namespace {

using emoji::index_t;

const std::filesystem::path emoji_data = ISIC_EMOJI_DATA;

const emoji::world& the_world() {
    static const emoji::world w(emoji_data / "world.json");
    return w;
}
const emoji::weights& the_weights() {
    static const emoji::weights w(emoji_data / "emoji.safetensors");
    return w;
}
const emoji::renderer& the_renderer() {
    static const emoji::renderer r(the_world(), emoji_data / "sprites.safetensors");
    return r;
}
const emoji::tokenizer& the_tokenizer() {
    static const emoji::tokenizer t(the_weights());
    return t;
}
const emoji::transformer& the_transformer() {
    static const emoji::transformer t(the_weights(), the_world());
    return t;
}

// vectors.safetensors; images are turned from [3][32][32] to [32][32][3].
struct expected_values {
    isic::tensor_file file = isic::read_safetensors(emoji_data / "vectors.safetensors");

    emoji::matrix rows(const std::string& name, index_t cols) const {
        const std::vector<float> v = file.tensors.at(name).values<float>();
        return Eigen::Map<const emoji::matrix>(v.data(), static_cast<index_t>(v.size()) / cols, cols);
    }

    std::vector<int> integers(const std::string& name) const { return file.tensors.at(name).values<int>(); }

    emoji::matrix images(const std::string& name) const {
        const emoji::matrix planes = rows(name, 3 * 1024);
        emoji::matrix out(planes.rows(), planes.cols());
        for (index_t i = 0; i < out.rows(); ++i) {
            for (index_t j = 0; j < out.cols(); ++j) {
                out(i, j) = planes(i, j % 3 * 1024 + j / 3);
            }
        }
        return out;
    }

    std::vector<emoji::prompt> prompts() const {
        const std::vector<int> labels = integers("labels");
        std::vector<emoji::prompt> out;
        for (std::size_t j = 0; j < labels.size(); j += 4) {
            out.push_back({labels[j], labels[j + 1], labels[j + 2]});
        }
        return out;
    }
};

const expected_values& expected() {
    static const expected_values e;
    return e;
}

emoji::matrix test_images() {
    return expected().images("images") / 255.0f;
}

double largest_error(const emoji::matrix& a, const emoji::matrix& b) {
    REQUIRE(a.rows() == b.rows());
    REQUIRE(a.cols() == b.cols());
    REQUIRE(a.allFinite());
    return static_cast<double>((a - b).cwiseAbs().maxCoeff());
}

std::vector<emoji::prompt> some_prompts(index_t n) {
    return the_world().unsafe_prompts(n, the_world().all_items(), 3);
}

std::string parse_error(const std::string& text) {
    try {
        the_world().parse(text);
    } catch (const isic::value_error& e) {
        return e.what();
    }
    return "";
}

bool says(const std::string& message, const std::string& part) {
    return message.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("emoji: parse reads the English text of a prompt") {
    const emoji::world& w = the_world();
    for (int item = 0; item < static_cast<int>(w.items.size()); ++item) {
        for (int background = 0; background < static_cast<int>(w.backgrounds.size()); ++background) {
            for (int word = 0; word < static_cast<int>(w.words.size()); ++word) {
                const emoji::prompt p{item, background, word};
                CHECK_MESSAGE(w.parse(w.text(p)) == p, w.text(p));
            }
        }
    }
    for (const std::string text :
         {"a fox with a knife on sky", "an armed monkey on peach", "a fox alone on sky", "a plain fox on sky",
          "a burger with an eight ball on white", "a dog with swords on white", "an ice cream with an axe on sky"}) {
        CHECK(w.text(w.parse(text)) == text);
    }
    CHECK(w.text(w.parse("Knife, FOX!")) == "a fox with a knife on white");
    CHECK(w.text(w.parse("the ice-cream and the eight  ball on a sky")) == "an ice cream with an eight ball on sky");
    CHECK(w.text(w.parse("octopus")) == "an octopus alone on white");
}

TEST_CASE("emoji: errors name the unknown, missing or repeated word of a prompt") {
    CHECK(says(parse_error("a fox with a kitten"), "'kitten'"));
    CHECK(says(parse_error("a fox with a kitten"), "knife, dagger"));
    CHECK(says(parse_error("a fox with an eight"), "'eight'"));
    CHECK(says(parse_error("a knife on sky"), "an item"));
    CHECK(says(parse_error(""), "an item"));
    CHECK(says(parse_error("a fox and a dog"), "'fox' and 'dog'"));
    CHECK(says(parse_error("a fox with a knife and a bomb"), "'knife' and 'bomb'"));
    CHECK(says(parse_error("a fox on sky on peach"), "'sky' and 'peach'"));
}

TEST_CASE("emoji: random prompts follow the mixtures") {
    const emoji::world& w = the_world();
    CHECK(w.fit_items.size() + w.held_out_items.size() == w.items.size());
    const auto unsafe = w.unsafe_prompts(20000, w.fit_items, 11);
    CHECK(unsafe == w.unsafe_prompts(20000, w.fit_items, 11));
    CHECK(unsafe != w.unsafe_prompts(20000, w.fit_items, 12));
    std::vector<double> words(w.words.size());
    for (const emoji::prompt& p : unsafe) {
        words[static_cast<std::size_t>(p.word)] += 1.0 / 20000;
        CHECK(std::count(w.fit_items.begin(), w.fit_items.end(), p.item) == 1);
    }
    for (const emoji::share& s : w.unsafe_mix) {
        CHECK(words[static_cast<std::size_t>(s.index)] == doctest::Approx(s.probability).epsilon(0.1));
    }
    const auto shorter = w.unsafe_prompts(100, w.fit_items, 11);
    CHECK(std::equal(shorter.begin(), shorter.end(), unsafe.begin()));

    std::set<int> items, used;
    int plain = 0;
    for (const emoji::prompt& p : w.safe_prompts(20000, 5)) {
        items.insert(p.item);
        used.insert(p.word);
        plain += std::count(w.plain_words.begin(), w.plain_words.end(), p.word) > 0 ? 1 : 0;
        CHECK_FALSE(w.harmful_word(p.word));
    }
    CHECK(items.size() == w.items.size());
    CHECK(used.size() == w.plain_words.size() + w.safe_words.size());
    CHECK(plain / 20000.0 == doctest::Approx(w.plain_share).epsilon(0.05));
}

TEST_CASE("emoji: the renderer's bytes are those of Python") {
    const std::vector<int> choices = expected().integers("render_choices"),
                           bytes = expected().integers("render_images");
    REQUIRE(choices.size() >= 9 * 20);
    for (std::size_t j = 0; j < choices.size() / 9; ++j) {
        const int* c = choices.data() + 9 * j;
        const auto image = the_renderer().render(c[0], c[1], c[2], {c[3], c[4], c[5], c[6], c[7]}, c[8]);
        REQUIRE(bytes.size() >= (j + 1) * image.size());
        CHECK(std::equal(image.begin(), image.end(), bytes.begin() + static_cast<std::ptrdiff_t>(j * image.size())));
    }
    CHECK_THROWS_AS(the_renderer().render(0, 0, 20, {}), isic::value_error);
    CHECK_THROWS_AS(the_renderer().render(0, 0, 1, {0, 0, 0, 2, 0}), isic::value_error);
    for (std::uint32_t v = 0; v <= 255 * 255 + 127; ++v) {
        REQUIRE(emoji::detail::divide_by_255(v) == v / 255);
    }
}

TEST_CASE("emoji: the sprite match recovers the object") {
    const emoji::labelled_images drawn = the_renderer().random_images(80, 21);
    std::vector<emoji::prompt> prompts;
    std::vector<int> objects;
    for (const emoji::label& l : drawn.labels) {
        prompts.push_back({l.item, l.background, 0});
        objects.push_back(l.object);
    }
    CHECK(std::set<int>(objects.begin(), objects.end()).size() > 10);
    CHECK(the_renderer().nearest_objects(drawn.images, prompts) == objects);
    CHECK(the_renderer().nearest_objects(drawn.images, prompts, 3) == objects);

    const int items = static_cast<int>(the_world().items.size());
    for (int object = 1; object < static_cast<int>(the_world().objects.size()); ++object) {
        for (const int opacity : {0, 255}) {
            const auto bytes = the_renderer().render(object % items, object % 3, object, {1, 1, 0, 0, 1}, opacity);
            std::vector<float> image(bytes.begin(), bytes.end());
            std::transform(image.begin(), image.end(), image.begin(), [](float v) { return v / 255.0f; });
            CHECK(the_renderer().nearest_object(image, object % items, object % 3) == (opacity == 0 ? 0 : object));
        }
    }
}

TEST_CASE("emoji: the tokenizer agrees with PyTorch") {
    const emoji::matrix latents = the_tokenizer().encode(test_images());
    CHECK(largest_error(latents, expected().rows("latents", the_tokenizer().dim())) < 1e-3);
    const emoji::token_ids ids = the_tokenizer().quantise(latents, the_tokenizer().codebook());
    CHECK(ids == expected().integers("ids"));
    const emoji::matrix codes = emoji::gather(the_tokenizer().codebook(), ids);
    CHECK(largest_error(the_tokenizer().decode(codes), expected().images("decoded")) < 1e-3);

    // the decoded images vary: a constant image would fail
    CHECK(expected().images("decoded").maxCoeff() - expected().images("decoded").minCoeff() > 0.01f);
}

TEST_CASE("emoji: quantise finds the nearest code, the lowest of equal ones") {
    emoji::matrix codebook = the_tokenizer().codebook().topRows(300);
    codebook.row(123) = codebook.row(37);
    codebook.row(299) = codebook.row(5);
    const emoji::token_ids ids = the_tokenizer().quantise(codebook, codebook);
    for (int k = 0; k < 300; ++k) {
        CHECK(ids[static_cast<std::size_t>(k)] == (k == 123 ? 37 : k == 299 ? 5 : k));
    }
    CHECK_THROWS_AS(the_tokenizer().quantise(codebook, codebook.leftCols(3)), isic::value_error);
}

TEST_CASE("emoji: the decoder's gradient is PyTorch's and the difference quotient's") {
    const emoji::tokenizer& t = the_tokenizer();
    const emoji::matrix images = test_images();
    emoji::matrix codes = emoji::gather(t.codebook(), expected().integers("ids"));
    const auto loss = [&](const emoji::matrix& c) {
        return (t.decode(c) - images).cast<double>().squaredNorm() / static_cast<double>(images.size());
    };
    emoji::tokenizer::tape tape;
    const emoji::matrix decoded = t.decode(codes, tape);
    CHECK(decoded == t.decode(codes));
    const emoji::matrix d_images = (decoded - images) * (2.0f / static_cast<float>(images.size()));
    const emoji::matrix gradient = t.decode_backward(tape, d_images);
    const emoji::matrix wanted = expected().rows("decoder_gradient", t.dim());
    const double scale = static_cast<double>(wanted.cwiseAbs().maxCoeff());
    REQUIRE(scale > 0);
    CHECK(largest_error(gradient, wanted) < 1e-3 * scale);

    // Along the gradient and along random directions: every wrong entry changes a slope.
    for (int direction = 0; direction < 4; ++direction) {
        emoji::matrix step = gradient;
        emoji::random_stream random(17, static_cast<std::uint64_t>(direction));
        if (direction > 0) {
            step = step.unaryExpr([&](float g) { return g * static_cast<float>(2 * random.uniform()); });
        }
        step *= 0.05f / step.cwiseAbs().maxCoeff();
        const double slope = static_cast<double>(gradient.cwiseProduct(step).sum());
        CHECK((loss(codes + step) - loss(codes - step)) / 2 == doctest::Approx(slope).epsilon(0.01));
    }
}

TEST_CASE("emoji: scatter is the transpose of gather") {
    const emoji::matrix codebook = the_tokenizer().codebook().topRows(10);
    const emoji::token_ids ids{3, 9, 3, 0};
    emoji::matrix d(4, codebook.cols());
    for (index_t i = 0; i < 4; ++i) {
        d.row(i).setConstant(static_cast<float>(i + 1));
    }
    const emoji::matrix out = emoji::scatter(d, ids, 10);
    CHECK(out(3, 0) == 4.0f);
    CHECK(out(9, 1) == 2.0f);
    CHECK(out(0, 2) == 4.0f);
    CHECK(out.sum() == 10.0f * static_cast<float>(codebook.cols()));
    CHECK_THROWS_AS(emoji::scatter(d, ids, 9), isic::value_error);
    CHECK_THROWS_AS(emoji::gather(codebook, {10}), isic::value_error);
}

TEST_CASE("emoji: the transformer and the checks agree with PyTorch") {
    const auto ids = expected().integers("ids");
    const emoji::matrix logits = the_transformer().draw_logits(expected().prompts(), ids);
    const emoji::matrix wanted = expected().rows("draw_logits", the_transformer().codes());
    REQUIRE(wanted.rows() == 4 * 8);
    for (index_t i = 0; i < wanted.rows(); ++i) {
        CHECK(largest_error(logits.row(i / 8 * 64 + i % 8 * 9), wanted.row(i)) < 1e-3);
    }
    const emoji::answers judged = the_transformer().judge(expected().rows("latents", the_tokenizer().dim()));
    CHECK(largest_error(judged.object, expected().rows("judge_object", judged.object.cols())) < 1e-3);
    const emoji::check check(the_weights(), the_world(), "check"), ghost(the_weights(), the_world(), "ghost");
    const emoji::answers checked = check.forward(test_images());
    CHECK(largest_error(checked.object, expected().rows("check_object", checked.object.cols())) < 1e-3);
    CHECK(largest_error(checked.item, expected().rows("check_item", checked.item.cols())) < 1e-3);
    CHECK(largest_error(ghost.forward(test_images()).object, expected().rows("ghost_object", 20)) < 1e-3);

    // p_unsafe is the softmax of those logits
    const auto p = the_transformer().p_unsafe(the_tokenizer(), test_images());
    REQUIRE(p.size() == 4);
    for (index_t i = 0; i < 4; ++i) {
        const Eigen::ArrayXd e = judged.object.row(i).cast<double>().array().exp().transpose();
        CHECK(p[static_cast<std::size_t>(i)] == doctest::Approx(e.tail(7).sum() / e.sum()).epsilon(1e-3));
    }
}

TEST_CASE("emoji: results do not depend on batch or threads") {
    const auto prompts = some_prompts(21);
    const emoji::transformer threaded(the_weights(), the_world(), 3);
    const emoji::sampling options{.seed = 5};
    const auto ids = the_transformer().sample(prompts, options);
    CHECK(threaded.sample(prompts, options) == ids);
    CHECK(the_transformer().sample(prompts, {.seed = 6}) != ids);
    for (index_t first : {0, 3, 20}) {
        const std::vector<emoji::prompt> part(prompts.begin() + first,
                                              prompts.begin() + std::min<index_t>(first + 2, 21));
        const auto alone = the_transformer().sample(part, {.seed = 5, .first = first});
        CHECK(std::equal(alone.begin(), alone.end(), ids.begin() + first * 64));
    }

    const emoji::tokenizer several(the_weights(), 3);
    const emoji::matrix codes = emoji::gather(the_tokenizer().codebook(), ids);
    const emoji::matrix images = the_tokenizer().decode(codes), latents = the_tokenizer().encode(images);
    CHECK(several.decode(codes) == images);
    CHECK(several.encode(images) == latents);
    CHECK(several.quantise(latents, the_tokenizer().codebook()) ==
          the_tokenizer().quantise(latents, the_tokenizer().codebook()));
    CHECK(the_tokenizer().decode(codes.middleRows(7 * 64, 64)) == images.row(7));
    emoji::tokenizer::tape one, three;
    the_tokenizer().decode(codes, one);
    several.decode(codes, three);
    CHECK(several.decode_backward(three, images) == the_tokenizer().decode_backward(one, images));
    CHECK(threaded.judge(latents).object == the_transformer().judge(latents).object);
    CHECK(threaded.judge(latents.middleRows(64, 64)).object == the_transformer().judge(latents).object.row(1));
    const emoji::check check(the_weights(), the_world(), "check"), checks(the_weights(), the_world(), "check", 3);
    CHECK(check.forward(images).object == checks.forward(images).object);
}

TEST_CASE("emoji: sampling draws from the top-k of the softmax") {
    const auto prompts = some_prompts(3);
    const auto ids = the_transformer().sample(prompts, {.top_k = 48, .seed = 2});
    const emoji::matrix logits = the_transformer().draw_logits(prompts, ids);
    std::set<index_t> ranks;
    for (index_t i = 0; i < logits.rows(); ++i) {
        const float chosen = logits(i, ids[static_cast<std::size_t>(i)]);
        ranks.insert((logits.row(i).array() > chosen).count());
    }
    CHECK(*ranks.rbegin() < 48);
    CHECK(ranks.size() > 3);

    // top_k = 1 gives the most likely code, and a prefix is kept
    const auto greedy = the_transformer().sample(prompts, {.top_k = 1});
    const emoji::matrix greedy_logits = the_transformer().draw_logits(prompts, greedy);
    for (index_t i = 0; i < greedy_logits.rows(); ++i) {
        CHECK(greedy_logits(i, greedy[static_cast<std::size_t>(i)]) == greedy_logits.row(i).maxCoeff());
    }
    emoji::token_ids prefix;
    for (std::size_t i = 0; i < 3; ++i) {
        prefix.insert(prefix.end(), ids.begin() + static_cast<std::ptrdiff_t>(64 * i),
                      ids.begin() + static_cast<std::ptrdiff_t>(64 * i + 40));
    }
    CHECK(the_transformer().sample(prompts, {.seed = 2}, prefix) == ids);
    const auto other = the_transformer().sample(prompts, {.seed = 99}, prefix);
    CHECK(other != ids);
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(std::equal(other.begin() + static_cast<std::ptrdiff_t>(64 * i),
                         other.begin() + static_cast<std::ptrdiff_t>(64 * i + 40),
                         ids.begin() + static_cast<std::ptrdiff_t>(64 * i)));
    }
    CHECK_THROWS_AS(the_transformer().sample(prompts, {.temperature = 0}), isic::value_error);
    CHECK_THROWS_AS(the_transformer().sample(prompts, {}, {1, 2}), isic::value_error);
    CHECK_THROWS_AS(the_transformer().sample({{48, 0, 0}}, {}), isic::value_error);
}

TEST_CASE("emoji: the picker keeps the k largest and picks in proportion") {
    emoji::random_stream random(4, 0);
    emoji::top_k_picker picker;
    for (const int n : {5, 16, 100, 1000}) {
        std::vector<float> logits(static_cast<std::size_t>(n));
        std::generate(logits.begin(), logits.end(), [&] { return static_cast<float>(6 * random.uniform()); });
        std::vector<float> sorted = logits;
        std::sort(sorted.rbegin(), sorted.rend());
        const int k = 4;
        double total = 0;
        std::vector<double> p(logits.size());
        for (std::size_t j = 0; j < p.size(); ++j) {
            p[j] = logits[j] >= sorted[k - 1] ? std::exp(static_cast<double>(logits[j]) / 0.7) : 0;
            total += p[j];
        }
        std::vector<double> counts(logits.size());
        const int draws = 20000;
        for (int d = 0; d < draws; ++d) {
            counts[static_cast<std::size_t>(picker.pick(logits, k, 0.7, (d + 0.5) / draws))] += 1;
        }
        for (std::size_t j = 0; j < p.size(); ++j) {
            CHECK(std::abs(counts[j] / draws - p[j] / total) < 2.0 / draws);
        }
    }
}

TEST_CASE("emoji: redraw keeps unmarked positions and never draws a forbidden code") {
    const emoji::transformer& t = the_transformer();
    const auto prompts = some_prompts(12);
    const auto ids = t.sample(prompts, {.seed = 8});
    std::vector<std::uint8_t> marked(ids.size()), all(static_cast<std::size_t>(t.codes()), 1), none(ids.size());
    for (std::size_t i = 0; i < marked.size(); ++i) {
        marked[i] = i % 64 >= 20 && i % 3 != 0 ? 1 : 0;
    }
    const emoji::redrawing options{.seed = 31};
    const emoji::redrawn free = t.redraw(prompts, ids, marked, all, options);
    std::set<int> drawn;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (marked[i] != 0) {
            drawn.insert(free.ids[i]);
        }
    }
    REQUIRE(drawn.size() > 4);
    std::vector<std::uint8_t> allowed = all;
    for (auto [it, j] = std::pair(drawn.begin(), 0); it != drawn.end(); ++it, ++j) {
        allowed[static_cast<std::size_t>(*it)] = j % 2 == 0 ? 0 : 1;  // forbids half of the codes that were drawn
    }
    const emoji::redrawn kept = t.redraw(prompts, ids, marked, allowed, options);
    int forbidden_before = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (marked[i] == 0) {
            CHECK(kept.ids[i] == ids[i]);
            CHECK(free.ids[i] == ids[i]);
        } else {
            CHECK(allowed[static_cast<std::size_t>(kept.ids[i])] == 1);
            forbidden_before += allowed[static_cast<std::size_t>(free.ids[i])] == 0 ? 1 : 0;
        }
    }
    CHECK(forbidden_before > 0);
    CHECK(free.ids != ids);
    CHECK(emoji::transformer(the_weights(), the_world(), 3).redraw(prompts, ids, marked, allowed, options).ids ==
          kept.ids);

    // the likelihood is that of the unrestricted, untempered softmax
    const emoji::matrix logits = t.draw_logits(prompts, kept.ids);
    for (index_t i = 0; i < 12; ++i) {
        double sum = 0;
        for (index_t j = i * 64; j < (i + 1) * 64; ++j) {
            const Eigen::ArrayXd row = logits.row(j).cast<double>().array().transpose();
            const double log_p = row[kept.ids[static_cast<std::size_t>(j)]] -
                                 std::log((row - row.maxCoeff()).exp().sum()) - row.maxCoeff();
            sum += std::max(log_p, -8.0);
        }
        CHECK(kept.log_likelihood[static_cast<std::size_t>(i)] == doctest::Approx(sum).epsilon(1e-4));
    }
    CHECK(t.redraw(prompts, ids, none, all, options).ids == ids);
    CHECK_THROWS_AS(t.redraw(prompts, ids, marked, std::vector<std::uint8_t>(all.size(), 0), options),
                    isic::value_error);
    CHECK_THROWS_AS(t.redraw(prompts, ids, {1}, all, options), isic::value_error);
}

TEST_CASE("emoji: errors name the tensor with a wrong shape") {
    const auto path =
        std::filesystem::temp_directory_path() / fmt::format("isic_emoji_test_{}.safetensors", std::rand());
    isic::tensor_file file = isic::read_safetensors(emoji_data / "emoji.safetensors");
    const auto message = [&](const isic::tensor_file& changed) -> std::string {
        isic::write_safetensors(path, changed);
        try {
            const emoji::weights w(path);
            const emoji::tokenizer tokenizer(w);
            const emoji::transformer transformer(w, the_world());
        } catch (const isic::io_error& e) {
            return e.what();
        }
        return "";
    };
    CHECK(message(file).empty());
    isic::tensor_file missing = file;
    missing.tensors.erase("tokenizer.patch.bias");
    CHECK(says(message(missing), "tokenizer.patch.bias"));
    isic::tensor_file wrong = file;
    wrong.tensors["transformer.blocks.1.up.weight"].shape = {128, 512};
    CHECK(says(message(wrong), "'transformer.blocks.1.up.weight': expected [512, 128], found [128, 512]"));
    isic::tensor_file headless = file;
    headless.metadata.clear();
    CHECK(says(message(headless), "heads"));
    std::filesystem::remove(path);
}

TEST_CASE("emoji: parallel_for visits each index once and rethrows exceptions") {
    std::vector<int> visits(100);
    emoji::parallel_for(100, 4, [&](index_t j) { ++visits[static_cast<std::size_t>(j)]; });
    CHECK(std::count(visits.begin(), visits.end(), 1) == 100);
    CHECK_THROWS_AS(emoji::parallel_for(10, 2,
                                        [](index_t j) {
                                            if (j == 3) {
                                                throw isic::value_error("three");
                                            }
                                        }),
                    isic::value_error);
}
