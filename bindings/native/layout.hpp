/// \file
/// How arrays describe themselves, wherever their memory is: what reading memory of the CPU and of a GPU has in common.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "memory.hpp"

namespace isic::python {

// The part of the DLPack ABI, versions 0.x and 1.x, that isic needs (github.com/dmlc/dlpack).
namespace dlpack {

constexpr std::int32_t cpu = 1;
constexpr std::int32_t cuda = 2;
constexpr std::int32_t cuda_host = 3;  // pinned memory of the CPU
constexpr std::int32_t rocm_host = 11;
constexpr std::int32_t cuda_managed = 13;
constexpr std::uint8_t code_int = 0;
constexpr std::uint8_t code_float = 2;
constexpr std::uint8_t code_bfloat = 4;
constexpr std::uint8_t code_bool = 6;
constexpr std::uint64_t read_only = 1;
constexpr std::uint64_t is_copied = 2;

struct tensor {
    void* data;
    std::int32_t device_type;
    std::int32_t device_id;
    std::int32_t ndim;
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements; null: compact
    std::uint64_t byte_offset;
};

struct managed {
    tensor value;
    void* context;
    void (*deleter)(managed*);
};

struct managed_versioned {
    std::uint32_t major;
    std::uint32_t minor;
    void* context;
    void (*deleter)(managed_versioned*);
    std::uint64_t flags;
    tensor value;
};

}  // namespace dlpack

inline constexpr std::string_view contiguous_copy =
    "make a copy (ascontiguousarray of numpy or cupy, Tensor.contiguous), edit that and copy it back";

/// What every kind of memory is checked as, in elements.
struct layout {
    void* data = nullptr;
    std::vector<index_t> shape;
    std::vector<index_t> strides;
    std::optional<storage> type;  // none: no type of a codebook
    int integer_bits = 0;         // of signed integers; 0: none
    bool is_bool = false;         // a byte each
    std::string type_name;
    bool writable = true;
};

/// "module.Class".
std::string type_name_of(py::handle object);

/// torch, if somebody imported it; isic never does.
py::object loaded_torch();
bool is_torch_tensor(py::handle object);

/// The layout of a numpy array. Errors: shape_error for strides of broken elements or memory off its alignment.
layout layout_of(std::string_view function, std::string_view name, const py::array& a);

/// Elements from one row to the next, of two dimensions. Errors: shape_error if rows are not adjacent values or overlap.
index_t row_stride(std::string_view function, std::string_view name, const layout& m);

/// A codebook, without owner. Errors: as `memory_of`.
memory checked(std::string_view function, std::string_view name, const layout& m, access how);

/// Where a DLPack producer says that its memory is: kind and number.
std::pair<std::int32_t, std::int32_t> dlpack_device(py::handle object);

/// Whether a kind of device is memory of the CPU.
bool is_host(std::int32_t kind);

/// Throws backend_error if an array says that it is on a device.
void require_cpu(std::string_view function, std::string_view name, py::handle object);

/// Throws value_error for what is to be edited and belongs to a library that allows no changes.
void require_changeable(std::string_view function, std::string_view name, py::handle object, access how);

/// What a DLPack producer handed over; its deleter is called when `owner` goes.
struct handed_over {
    layout values;
    py::object owner;
};

/// Takes memory from a DLPack producer; `arguments` for its __dlpack__, beside the version. Errors: value_error, and its own.
handed_over take_dlpack(std::string_view function, std::string_view name, py::handle object, access how, const py::dict& arguments = {});

/// Throws TypeError: no array of any kind; `how` to get one.
[[noreturn]] void fail_type(std::string_view function, std::string_view name, py::handle object,
                            std::string how = "numpy.asarray or torch.tensor makes one");

}  // namespace isic::python
