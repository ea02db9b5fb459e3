#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One word for one thing: the field's word, and none of those that once stood for it.

  check_words.py ROOT              check the text files below ROOT, their names included
  check_words.py ROOT --self-test  check that planted words are found and that ordinary English is not

A line that has to keep a word is listed in EXCEPTIONS, with the reason.
"""
import fnmatch
import pathlib
import re
import subprocess
import tempfile

import report

ALL = ("*",)
CODE = ("*.hpp", "*.cpp", "*.cu", "*.cuh")
CUDA = ("src/cuda/*", "include/isic/cuda/*", "tests/cuda/*", "tests/support/cuda/*")
TEXT = ("*.md", "examples/*", "bindings/isic/report/*", "bindings/isic/_cli/*", "tests/python/*")


class Word:
    """A word that is not to be used: its pattern, the word to use, the reason, a line that has it, and the files it is sought in."""

    def __init__(self, pattern, instead, reason, example, files=ALL, name="planted.cpp"):
        self.pattern = re.compile(pattern, re.IGNORECASE)
        self.instead = instead
        self.reason = reason
        self.example = example
        self.files = files
        self.name = name  # of the file that the self-test plants the example in


FAISS = "FAISS' word"
ONE = "one primitive, one name"
PLAIN = "plain English"

WORDS = [
    # Images and tokens
    Word(r"pictures?(?![a-z])|(?<![a-z])picture", "image", "everyone's word", "index_t tokens_per_picture = 0;"),
    # Nearest codes
    Word(r"\blook-ups?\b|look_up", "nearest-neighbour search, query", FAISS, "// codes packed once for many look-ups"),
    Word(r"\blookers?\b", "visitor", FAISS, "// a looker is given candidates"),
    Word(r"\benum class lookup\b|\blookup::|\blookup (rule|how|metric)\b|isic::lookup\b|\bl2_normalised\b", "metric",
         "enum class metric { l2, cosine }", "nearest(codes, lookup::plain);"),
    Word(r"--rule\b|\brule\s*=\s*[\"'](plain|cosine|l2)|\brule:\s*(str|Rule|Lookup)\b|\boptions\.rule\b|\brule\s*=\s*isic::", "metric",
         "a rule is the rank rule or the update rule", 'isic.nearest_codes(v, codes, rule="plain")'),
    Word(r"\bsettl(e|es|ed|ing)(?![a-z])|(?<=_)settled?\b|\bsettle_", "re-rank (candidates), resolve", FAISS, "settle_ties(codes);"),
    Word(r"\brul(e|es|ed|ing) out\b|\brule_out|\brules? most \w+ out\b", "prune", FAISS, "// codes that are ruled out"),
    Word(r"placed_codes|code_places|place_sorter|(^|[/\"])places(-inl)?\.(hpp|cpp)", "kd_tree, leaf order", "a k-d tree is one",
         "placed_codes tree;"),
    Word(r"byte_codes|(^|[/\"])bytes-inl\.hpp", "int8 scores (SQ8)", FAISS, "byte_codes packed;"),
    Word(r"\bscores in bytes\b", "int8 scores", FAISS, "// scores in bytes are bounded"),
    # Rows
    Word(r"strong_rows", "row batch with strengths", "says what it holds", "strong_rows<T> rows;"),
    Word(r"lines_of_rows|(^|[/\"])lines-inl\.hpp", "aligned rows", "the lines are cache lines", "lines_of_rows<T, V> v;"),
    Word(r"block_of_rows", "register tile", "the field's word", "block_of_rows<T, V> v;"),
    Word(r"(?<![a-z_])in_steps(?![a-z_])", "software pipeline", "the field's word", "in_steps(*this, count, bytes);"),
    Word(r"\blane_packs?\b|\brow_packs?\b", "vectors of a lane", "the CUDA guide's word", "lane_packs<8, T> packs(m, row);"),
    Word(r"\b(struct|class)\s+pack\b|\bpack<", "vector", "the CUDA guide's word: float4 is a vector", "const pack<float> p = load();"),
    # Bases
    Word(r"packed_directions|directions_in\b|\b(struct|class|using)\s+directions\b|\bdirections<|(^|[/\"])directions(-inl)?\.(hpp|cpp)",
         "subspace (the value), packed_basis (for kernels)", "five types for one thing", "packed_directions<T> basis;"),
    Word(r"row_basis|\bRowBasis\b", "fused::basis", ONE, "isic::row_basis<float> harm;"),
    Word(r"orthonormal_rest", "orthogonalise_against", "Gram-Schmidt", "orthonormal_rest(v, basis);"),
    Word(r"\bless (a|the) (sub)?space\b|less_a_subspace|\bless_subspace", "project out", ONE, "// rows less a subspace"),
    Word(r"\b(take|takes|taken|taking|took) out\b", "project out; remove", ONE, "// the directions are taken out"),
    # Checks
    Word(r"\blook_at_?\w*|\blooks at rows\b", "check_finite, scan", "says what is checked", "look_at_rows(m, skip, found, stream);"),
    Word(r"\bfindings\b(?! of)|\bjoin_findings\b", "check_flags", "says what it holds", "struct findings {", CODE),
    Word(r"\bfound_by\b", "check_flags", ONE, "int found_by;", CODE),
    Word(r"\bfates?_?\b|\bfate_of\b|\benum class outcome\b|\boutcome::", "row_status", ONE, "enum class fate { stays, moves };", CODE),
    Word(r"\bgoals?_?\b|\bmerge_goals\b", "target", ONE, "struct goals {", ("include/*", "src/*", "bindings/*"), "src/planted.cpp"),
    Word(r"\bvanish(ed|es|ing)?(?! gradient)(?![a-z])|vanished_rows|--vanished", "near-zero (collapsed) rows",
         "a row whose length is nearly 0 is still there", "options.vanished = vanished_rows::keep;"),
    # Execution
    Word(r"kernels::resources|\bresources_of\b|\b(struct|class) resources\b|\bresources&? use\b|\.use\s*=\s*\{?\s*\.threads", "execution",
         "{threads, simd, scratch}", "const kernels::resources use{.threads = 1};"),
    Word(r"(?<![.\w])tell\(", "report_progress", "says what is told", 'tell("judge", 0, 1);', CODE),
    # Updates
    Word(r"\b(check_)?(adam|ema|project)_rows\b", "fused::adam_update, fused::ema_update, fused::project_out", "torch's word",
         "isic::adam_rows(codes, gradient, state, options);"),
    Word(r"\b(device_)?(adam|ema)_row_state\b|\b(Adam|Ema)RowState\b|\b(device_)?row_(projection_options|constraint)\b",
         "adam_state, ema_state, fused::projection_options, fused::constraint", ONE, "isic::ema_row_state<float> state;"),
    Word(r"_state(<\w*>)?\s*& memory\b|\bmemory\.(mean|square|counts|sums|steps|velocity)\b", "state", "an optimiser has a state",
         "void adam(adam_state& memory);", CODE),
    Word(r"faded_count|\bfad(ed|ing) counts?\b", "count floor", "a constant of one name", "if (n < faded_count<T>) {"),
    Word(r"(?<![\w.])forget\(", "flush_to_zero", "the field's word", "forget(code);", CODE),
    Word(r"unbias_?\w*", "bias_correction1, bias_correction2", "torch's word", "T unbias_mean = 1;"),
    Word(r"\brest[12]\b", "one_minus_beta1, one_minus_beta2", "says what it is", "const V rest1 = one - beta1;"),
    # CUDA
    Word(r"(?<!std::)\bprecede\(|backend\(?\)?\.wait_for\(|::wait_for\(void|\bwait_for\((void\* ?)?(stream|nullptr)|\w+\.wait_for\(\w+\.stream",
         "wait_stream, record_stream", "torch's word", "gpu.wait_for(writer.stream());", CODE),
    Word(r"\bprocessors(\(\)|_|\b)", "SMs", "NVIDIA's word", "int processors;", CUDA, "src/cuda/planted.cu"),
    Word(r"\b(class|struct|const)\s+on_device\b|\bon_device\s+\w+[({;]|::on_device\b", "device_guard", "says what it does", "const on_device guard(0);", CODE),
    Word(r"\b(class|struct)\s+on_host\b|\bon_host\s+\w+[({;]|\bon_host[<(]|cuda::on_host\b", "host_mirror",
         "says what it is", "isic::cuda::on_host mirror(gpu, model);", CODE),
    Word(r"(^|[/\"])(look\.(cu|cpp|hpp)|measure\.cu|nearest\.cu|project\.cu|rows\.(cu|cpp|hpp)|scores\.cu)(\"|$|\s)",
         "metrics.cu, codebook.cu, projection.cu, fused.cu", "a .cu has its header's name", "#include \"measure.cu\"",
         ("src/cuda/*", "include/isic/cuda/*"), "src/cuda/planted.cpp"),
    # README and demo
    Word(r"\bnearest rendering\b", "sprite match", "says what is compared", "judge by the nearest rendering", TEXT + CODE, "planted.md"),
    Word(r"\bstill there\b", "retained", "a column needs a word", "safe items still there", TEXT, "planted.md"),
    Word(r"\bsmudges?\b", "residue, residual error", PLAIN, "from smudges", ALL, "planted.md"),
    Word(r"\bwords replaced\b", "prompt-rewriting baseline", "the literature's word", "| words replaced | 3.1 |", ALL, "planted.md"),
    # Phrases
    Word(r"\bas soon as [^.]*\bpays?\b|\bfor as many as pay\b|\bas (many|long) as (it )?pays?\b", "from about N; choose automatically",
         "say the number", "threads >= 1, or 0 for as many as pay"),
    Word(r"\bso many\b", "n, this many", "name the number", "max_rounds: at most so many"),
    Word(r"\bin whose bits\b|\brows anywhere\b|\bnone twice\b|\bwhat is told\b|\bis told the codes\b", "name the subject; use the noun", PLAIN,
         "// Rows anywhere, none twice."),
]

# (path, pattern of the line, reason). An exception that no line needs is a fault.
EXCEPTIONS = [
    ("bindings/isic/report/*", r"--rule|\brule: str", "a rule is a thin line on the page"),
]

# Not read: this file, and data.
LEFT_OUT = ("tests/library/check_words.py", "*.safetensors", "*.png", "*.npy", "examples/emoji/data/*", "LICENSE")

# Ordinary English and names of others, in which none of the words may be found.
HARMLESS = """
The rule of rank is Gavish and Donoho's; a rule is passed as rank=. The embedding lookup of a transformer reads one row.
We tell the user to look up the code in the table; f.tell() is a file's offset. Looking at an image takes a second.
Settings of the setup are kept. Directions of largest variance span the harmful subspace; the matrix `directions` is orthonormal.
This takes about a minute. The result is taken from the accumulator. Take the first row out of the table.
resource limits, processors with AVX2, the findings of the paper, std::condition_variable::wait_for(lock, limit)
std::this_thread, .used, forgetting, outcome of the judge, unpacked, packed_codes, package
copy_on_device(state), bool on_device = true, projection_rows, adam_update(rows), as long as the view lives, as many rows as codes
in place, the memory of a device
vanishing gradients, the places where it is called, pictogram
"""


def tracked(root):
    """Paths below root, relative: what git tracks or would; elsewhere all but build folders."""
    def git(*arguments):
        try:
            return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False).stdout.decode()
        except OSError:
            return ""

    top = git("rev-parse", "--show-toplevel").strip()
    if top and pathlib.Path(top) == root.resolve():
        names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    else:
        names = [path.relative_to(root).as_posix() for path in root.rglob("*")]
        names = [name for name in names if not re.search(r"(^|/)(build[^/]*|__pycache__|\.git|\.venv)/", name)]
    return sorted(name for name in names if name and (root / name).is_file())


def applies(globs, name):
    return any(fnmatch.fnmatch(name, glob) for glob in globs)


def uses(text, name):
    """(line number, line, word) for every word in a file's text and, as line 0, in its name."""
    for word in WORDS:
        if not applies(word.files, name):
            continue
        if word.pattern.search(name):
            yield 0, name, word
        seen = 0
        for match in word.pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            if line != seen:
                yield line, text.splitlines()[line - 1], word
            seen = line


def faults(root, exceptions=EXCEPTIONS):
    """One line of text for every fault found."""
    found = []
    needed = set()
    names = tracked(root)
    if not names:
        found.append(f"no files in {root}")
    for name in names:
        if applies(LEFT_OUT, name):
            continue
        try:
            text = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            found.append(f"{name}: not UTF-8")
            continue
        for line, shown, word in uses(text, name):
            excused = [e for e in exceptions if applies([e[0]], name) and re.search(e[1], shown)]
            needed.update(excused)
            if not excused:
                what = word.pattern.search(shown)
                found.append(f"{name}:{line}: {what.group() if what else shown.strip()!r}: write {word.instead} ({word.reason})")
    found += [f"check_words.py: the exception {e[:2]} is needed by no line" for e in exceptions if e not in needed]
    return found


def self_test(_root):
    """Plants one word at a time; returns the number of faults of the test itself."""
    missed = 0
    for word in WORDS:
        with tempfile.TemporaryDirectory() as scratch:
            path = pathlib.Path(scratch) / word.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"nothing here\n{word.example}\n", encoding="utf-8")
            caught = any(fault.startswith(f"{word.name}:2: ") and word.instead in fault for fault in faults(pathlib.Path(scratch), []))
            excused = not any(word.instead in fault for fault in faults(pathlib.Path(scratch), [(word.name, ".", "planted")]))
        print(f"{'found ' if caught else 'MISSED'}  {word.example}")
        missed += not (caught and excused)
    for name in ("planted.cpp", "src/cuda/planted.cpp", "README.md"):
        for line in HARMLESS.strip().splitlines():
            hits = [word.pattern.search(line).group() for _, _, word in uses(line, name)]
            if name.startswith("src/cuda/") and hits == ["processors"]:
                continue
            if hits:
                print(f"MISTAKEN in {name}: {hits} in: {line}")
                missed += 1
    with tempfile.TemporaryDirectory() as scratch:
        (pathlib.Path(scratch) / "clean.cpp").write_text("int image;\n", encoding="utf-8")
        if len(faults(pathlib.Path(scratch), [("clean.cpp", "image", "planted")])) != 1:
            print("MISSED  an exception that no line needs")
            missed += 1
        (pathlib.Path(scratch) / "picture_test.cpp").write_text("int image;\n", encoding="utf-8")
        if not any(fault.startswith("picture_test.cpp:0: ") for fault in faults(pathlib.Path(scratch), [])):
            print("MISSED  a word in a file's name")
            missed += 1
    return missed


if __name__ == "__main__":
    report.main(__doc__, 1, faults, self_test)
