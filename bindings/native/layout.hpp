// SPDX-License-Identifier: Apache-2.0
/// \file
/// Shapes, strides and types that arrays report, shared by the CPU and CUDA modules.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "memory.hpp"

namespace isic::python {

// The part of the DLPack ABI, versions 0.x and 1.x, that isic uses (github.com/dmlc/dlpack).
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
    "edit a contiguous copy (ascontiguousarray of numpy or cupy, Tensor.contiguous) and copy it back";

/// An array's memory as it describes itself. Strides count elements.
struct layout {
    void* data = nullptr;
    std::vector<index_t> shape;
    std::vector<index_t> strides;
    std::optional<dtype> type;  // f32, f64, f16 or bf16; none: not a codebook's type
    int integer_bits = 0;       // width of signed integers; 0: not integers
    bool is_bool = false;       // one byte per value
    std::string type_name;
    bool writable = true;
};

/// "module.Class".
std::string type_name_of(py::handle object);

/// The torch module if it is already imported, else None. isic never imports torch.
py::object loaded_torch();
bool is_torch_tensor(py::handle object);

/// Whether numpy's type is one of a codebook: float16, float32, float64, or bfloat16 of ml_dtypes.
bool is_codebook_type(const py::dtype& type);

/// Any array-like on the CPU as a numpy array; may copy. Errors: backend_error for memory of a GPU.
py::array host_array(std::string_view function, std::string_view name, py::handle object);

/// The memory of a numpy array and of a DLPack producer. Errors: as `memory_of`.
memory memory_of_array(std::string_view function, std::string_view name, const py::array& a, access how);
memory memory_of_dlpack(std::string_view function, std::string_view name, py::handle object, access how);

/// The layout of a numpy array. Errors: shape_error for strides that split elements or for unaligned memory.
layout layout_of(std::string_view function, std::string_view name, const py::array& a);

/// Elements from one row to the next of a matrix. Errors: shape_error unless each row is contiguous and rows do not overlap.
index_t row_stride(std::string_view function, std::string_view name, const layout& m);

/// A codebook's memory, without its owner. Errors: as `memory_of`.
memory checked(std::string_view function, std::string_view name, const layout& m, access how);

/// The device type and device number that a DLPack producer reports.
std::pair<std::int32_t, std::int32_t> dlpack_device(py::handle object);

/// Whether a DLPack device type is memory of the CPU.
bool is_host(std::int32_t kind);

/// Throws backend_error if an array is in memory of a device.
void require_cpu(std::string_view function, std::string_view name, py::handle object);

/// Throws value_error if the object would be edited and its library forbids writing (jax).
void require_changeable(std::string_view function, std::string_view name, py::handle object, access how);

/// The tensor of a DLPack capsule; `owner` calls its deleter.
struct handed_over {
    layout values;
    py::object owner;
};

/// Imports memory from a DLPack producer; `arguments` go to its __dlpack__ beside the version. Errors: value_error, and the
/// producer's own.
handed_over take_dlpack(std::string_view function, std::string_view name, py::handle object, access how,
                        const py::dict& arguments = {});

/// Throws TypeError: the object is not an array; `how` says how to make one.
[[noreturn]] void fail_type(std::string_view function, std::string_view name, py::handle object,
                            std::string how = "convert it by numpy.asarray or torch.tensor");

}  // namespace isic::python
