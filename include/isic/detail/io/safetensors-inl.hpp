// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <isic/io/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <isic/detail/io/files.hpp>

namespace isic::inline ISIC_ABI {
namespace detail {

/// Parses JSON. A repeated key and nesting deeper than the format has are errors, unlike in the default of the parser.
inline nlohmann::json parse_header(const std::filesystem::path& path, const std::string& text) {
    using event = nlohmann::json::parse_event_t;
    if (text.find('\0') != std::string::npos) {  // the parser would stop there
        fail_file(path, "the header contains a zero byte");
    }
    std::vector<std::set<std::string>> keys;
    const auto watch = [&](int depth, event what, nlohmann::json& value) {
        if (depth > 3) {
            fail_file(path, "the header is nested too deep");
        }
        if (what == event::object_start) {
            keys.emplace_back();
        } else if (what == event::object_end) {
            keys.pop_back();
        } else if (what == event::key && !keys.back().insert(value.get<std::string>()).second) {
            fail_file(path, fmt::format("the key '{}' occurs twice", value.get<std::string>()));
        }
        return true;
    };
    try {
        return nlohmann::json::parse(text, watch);
    } catch (const nlohmann::json::parse_error& e) {  // its message quotes the file, which may not be text
        fail_file(path, fmt::format("the header is not JSON from its byte {} on", e.byte));
    } catch (const nlohmann::json::exception&) {
        fail_file(path, "the header holds a number that does not fit");
    }
}

/// A size of the header as index_t.
inline index_t header_size(const std::filesystem::path& path, const std::string& name, const nlohmann::json& value) {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
        fail_file(path, fmt::format("{}: expected a size, got {}", name, value.dump(-1, ' ', true)));
    }
    return static_cast<index_t>(value.get<std::uint64_t>());
}

/// The entry of one tensor. Its offset is relative to the data.
inline tensor_place parse_place(const std::filesystem::path& path, const std::string& name, const nlohmann::json& j) {
    if (!j.is_object() || j.size() != 3 || !j.contains("dtype") || !j.contains("shape") ||
        !j.contains("data_offsets") || !j["dtype"].is_string() || !j["shape"].is_array() ||
        !j["data_offsets"].is_array() || j["data_offsets"].size() != 2) {
        fail_file(path, fmt::format("{}: expected dtype, shape and two data_offsets", name));
    }
    const std::string type = j["dtype"].get<std::string>();
    const auto entry =
        std::find_if(dtypes.begin(), dtypes.end(), [&](const dtype_entry& e) { return type == e.safetensors; });
    if (entry == dtypes.end()) {
        fail_file(path, fmt::format("{}: expected a known dtype, got '{}'", name, type));
    }
    tensor_place out{entry->type, {}, header_size(path, name, j["data_offsets"][0]), 0};
    const index_t end = header_size(path, name, j["data_offsets"][1]);
    for (const nlohmann::json& n : j["shape"]) {
        out.shape.push_back(header_size(path, name, n));
    }
    out.bytes = byte_count(out.shape, out.type);
    if (out.bytes < 0 || end < out.offset || end - out.offset != out.bytes) {
        fail_file(path, fmt::format("{}: expected {} bytes for {} [{}], got offsets {} to {}", name, out.bytes, type,
                                    fmt::join(out.shape, ", "), out.offset, end));
    }
    return out;
}

/// Throws unless the tensors cover the data without gap or overlap.
inline void require_coverage(const std::filesystem::path& path, const std::map<std::string, tensor_place>& tensors,
                             index_t data_size) {
    std::vector<std::pair<const tensor_place*, const std::string*>> order;
    for (const auto& [name, place] : tensors) {
        order.emplace_back(&place, &name);
    }
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
        return std::pair(a.first->offset, a.first->bytes) < std::pair(b.first->offset, b.first->bytes);
    });
    index_t at = 0;
    for (const auto& [place, name] : order) {
        if (place->offset != at) {
            fail_file(path, fmt::format("{}: expected data at offset {}, got {}", *name, at, place->offset));
        }
        at += place->bytes;
    }
    if (at != data_size) {
        fail_file(path, fmt::format("expected {} bytes of data, found {}", at, data_size));
    }
}

inline std::map<std::string, std::string> parse_metadata(const std::filesystem::path& path, const nlohmann::json& j) {
    std::map<std::string, std::string> out;
    if (!j.is_object() && !j.is_null()) {  // null means none, as in the reference library
        fail_file(path, fmt::format("__metadata__: expected strings by name, got {}", j.dump(-1, ' ', true)));
    }
    for (const auto& [key, value] : j.items()) {
        if (!value.is_string()) {
            fail_file(path, fmt::format("__metadata__: expected strings, got {}", value.dump(-1, ' ', true)));
        }
        out[key] = value.get<std::string>();
    }
    return out;
}

/// An open safetensors file with a validated header; tensors are read one at a time.
class safetensors_reader {
public:
    explicit safetensors_reader(const std::filesystem::path& path) : path_(path), in_(open_to_read(path, size_)) {
        std::uint64_t length = 0;
        if (size_ < sizeof(length)) {
            fail_file(path_, fmt::format("expected a safetensors file, found {} bytes", size_));
        }
        read_exactly(in_, path_, &length, sizeof(length));
        if (length > max_header || length > size_ - sizeof(length)) {
            fail_file(path_,
                      fmt::format("expected a safetensors file; this would have a header of {} bytes in a file of {}",
                                  length, size_));
        }
        std::string text(length, '\0');
        read_exactly(in_, path_, text.data(), length);
        parse(text);
    }

    safetensors_layout& layout() { return layout_; }

    tensor read(const tensor_place& place) {
        tensor out{place.type, place.shape, std::vector<std::byte>(static_cast<std::size_t>(place.bytes))};
        in_.seekg(place.offset);
        read_exactly(in_, path_, out.bytes.data(), out.bytes.size());
        return out;
    }

private:
    void parse(const std::string& text) {
        const nlohmann::json header = parse_header(path_, text);
        if (!header.is_object() || text.front() != '{') {
            fail_file(path_, "the header is not an object");
        }
        for (const auto& [name, value] : header.items()) {
            if (name == "__metadata__") {
                layout_.metadata = parse_metadata(path_, value);
            } else {
                layout_.tensors.emplace(name, parse_place(path_, name, value));
            }
        }
        const auto data = static_cast<index_t>(sizeof(std::uint64_t) + text.size());
        require_coverage(path_, layout_.tensors, static_cast<index_t>(size_) - data);
        for (auto& entry : layout_.tensors) {
            entry.second.offset += data;
        }
    }

    const std::filesystem::path& path_;
    std::uint64_t size_ = 0;
    std::ifstream in_;
    safetensors_layout layout_;
};

}  // namespace detail

ISIC_INLINE safetensors_layout read_safetensors_layout(const std::filesystem::path& path) {
    return std::move(detail::safetensors_reader(path).layout());
}

ISIC_INLINE tensor_file read_safetensors(const std::filesystem::path& path) {
    detail::safetensors_reader reader(path);
    tensor_file out{{}, std::move(reader.layout().metadata)};
    for (const auto& [name, place] : reader.layout().tensors) {
        out.tensors.emplace(name, reader.read(place));
    }
    return out;
}

ISIC_INLINE tensor read_tensor(const std::filesystem::path& path, const std::string& name) {
    detail::safetensors_reader reader(path);
    const auto found = reader.layout().tensors.find(name);
    if (found == reader.layout().tensors.end()) {
        detail::fail_file(path, fmt::format("{}: expected a tensor of this name, found none", name));
    }
    return reader.read(found->second);
}

ISIC_INLINE void write_safetensors(const std::filesystem::path& path, const tensor_file& file) {
    std::vector<std::pair<std::string, const tensor*>> order;
    for (const auto& [name, t] : file.tensors) {
        detail::require_consistent(path, name, t);
        if (name == "__metadata__") {
            detail::fail_file(path, "expected a tensor name, got the reserved '__metadata__'");
        }
        order.emplace_back(name, &t);
    }
    // Wide types first keeps every tensor aligned to its type; names break ties.
    std::ranges::sort(order, {}, [](const auto& entry) {
        return std::pair(-detail::entry_of(entry.second->type).bits, std::string_view(entry.first));
    });
    nlohmann::json header = nlohmann::json::object();
    if (!file.metadata.empty()) {
        header["__metadata__"] = file.metadata;
    }
    std::size_t at = 0;
    for (const auto& [name, t] : order) {
        header[name] = {{"dtype", detail::entry_of(t->type).safetensors},
                        {"shape", nlohmann::json(t->shape)},
                        {"data_offsets", {at, at + t->bytes.size()}}};
        at += t->bytes.size();
    }
    std::string text;
    try {
        text = header.dump();
    } catch (const nlohmann::json::exception& e) {
        detail::fail_file(path, fmt::format("a name or metadata is not UTF-8: {}", e.what()));
    }
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = text.size();
    if (length > detail::max_header) {
        detail::fail_file(path,
                          fmt::format("expected a header of at most {} bytes, got {}", detail::max_header, length));
    }
    detail::replace_file(path, [&](std::ofstream& out) {
        detail::write_bytes(out, &length, sizeof(length));
        detail::write_bytes(out, text.data(), text.size());
        for (const auto& entry : order) {
            detail::write_bytes(out, entry.second->bytes.data(), entry.second->bytes.size());
        }
    });
}

}  // namespace isic::inline ISIC_ABI
