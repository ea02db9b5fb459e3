// SPDX-License-Identifier: Apache-2.0
// The stand-in's CUDA runtime. The real header is included: a wrong signature does not compile.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "device.hpp"

namespace stand_in::detail {
namespace {

constexpr int most_threads = 1024;
constexpr int most_blocks_y = 65535;
constexpr int shared_bytes_by_default = 48 * 1024;
constexpr int most_shared_bytes = 227 * 1024;  // of compute capability 9.0
constexpr int multiprocessors = 2;

struct event {
    bool recorded = false;
    bool timing = true;
    position at;
    std::chrono::steady_clock::time_point when;
};

struct pool {};

registry<std::shared_ptr<event>>& events() {
    static registry<std::shared_ptr<event>> all;
    return all;
}

registry<pool>& pools() {
    static registry<pool> all;
    return all;
}

cudaMemPool_t default_pool() {
    static void* const handle = new_handle();
    return static_cast<cudaMemPool_t>(handle);
}

cudaError_t& last_error() {
    thread_local cudaError_t last = cudaSuccess;
    return last;
}

// Kernels that may have more dynamic shared memory than the default.
std::map<const void*, int>& shared_memory_limits() {
    static std::map<const void*, int> limits;
    return limits;
}

const bool runtime_is_cleared = [] {
    at_reset([] {
        events().clear();
        pools().clear();
        shared_memory_limits().clear();
        last_error() = cudaSuccess;
    });
    return true;
}();

cudaError_t fail(cudaError_t code) {
    if (code != cudaSuccess) {
        last_error() = code;
    }
    return code;
}

cudaError_t misuse(const entry& call, const std::string& text, cudaError_t code = cudaErrorInvalidValue) {
    violation(call.function() + ": " + text);
    return fail(code);
}

class runtime_call : public entry {
public:
    explicit runtime_call(const char* function, needs what = needs::device) : entry(function, what) { fail(status()); }
    bool refused() const { return why() != refusal::none; }
    cudaError_t status() const { return static_cast<cudaError_t>(code()); }
};

// Asynchronous errors show when somebody waits.
cudaError_t after_waiting() {
    return fail(static_cast<cudaError_t>(sticky_error()));
}

cudaError_t allocate(const runtime_call& call, void** p, std::size_t bytes, memory_kind kind) {
    if (p == nullptr) {
        return misuse(call, "nowhere to put the address");
    }
    *p = nullptr;
    if (bytes == 0) {
        return cudaSuccess;
    }
    *p = heap().allocate(bytes, kind, current_device());
    return *p == nullptr ? misuse(call, "the stand-in has run out of addresses", cudaErrorMemoryAllocation)
                         : cudaSuccess;
}

cudaError_t allocate_device(const runtime_call& call, void** p, std::size_t bytes) {
    state& s = control();
    if (bytes > s.capacity - std::min(s.used, s.capacity)) {
        return fail(cudaErrorMemoryAllocation);
    }
    const cudaError_t code = allocate(call, p, bytes, memory_kind::device);
    if (code == cudaSuccess && *p != nullptr) {
        s.used += bytes;
        s.peak = std::max(s.peak, s.used);
        ++s.live.buffers;
    }
    return code;
}

// Also when the call itself is to fail: whoever gave memory back did what he could.
bool give_back(const runtime_call& call, const void* p, memory_kind kind) {
    allocation* a = heap().find(p);
    if (a == nullptr || a->data != p || a->freed || a->kind != kind) {
        violation(call.function() + ": not the address of an allocation that is alive");
        return false;
    }
    a->freed = true;
    if (kind == memory_kind::device) {
        control().used -= a->bytes;
        --control().live.buffers;
    } else {
        --control().live.host_buffers;
    }
    return true;
}

struct copy_side {
    const char* name;
    const void* p;
    std::size_t pitch;
    bool is_device;
};

bool is_device_memory(const void* p) {
    const allocation* a = heap().find(p);
    return a != nullptr && a->kind == memory_kind::device;
}

bool copy_side_fits(const entry& call, const copy_side& side, std::size_t width, std::size_t height) {
    const bool pinned = heap().find(side.p) != nullptr && !is_device_memory(side.p);
    if (side.is_device != is_device_memory(side.p)) {
        violation(call.function() + ": the " + side.name + (side.is_device ? " is not" : " is") + " in device memory");
        return false;
    }
    if (!side.is_device && !pinned) {
        return side.p != nullptr;
    }
    return inside_allocation(call.function(), side.name, side.p, static_cast<index_t>(width),
                             static_cast<index_t>(height), static_cast<index_t>(side.pitch), 1);
}

cudaError_t copy(const runtime_call& call, void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                 std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t handle) {
    const auto on = find_stream(call.function(), handle);
    if (on == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (width > to_pitch || width > from_pitch) {
        return misuse(call, "rows wider than the pitch", cudaErrorInvalidPitchValue);
    }
    if (width == 0 || height == 0) {
        return cudaSuccess;
    }
    const bool guess = kind == cudaMemcpyDefault;
    const bool to_device =
        guess ? is_device_memory(to) : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device =
        guess ? is_device_memory(from) : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (!copy_side_fits(call, {"destination", to, to_pitch, to_device}, width, height) ||
        !copy_side_fits(call, {"source", from, from_pitch, from_device}, width, height)) {
        return fail(cudaErrorInvalidValue);
    }
    const auto copy_rows = [=] {
        for (std::size_t row = 0; row < height; ++row) {
            std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                        width);
        }
    };
    submit(on, {copy_rows, {}, false});
    return cudaSuccess;
}

struct error_text {
    cudaError_t code;
    const char* name;
    const char* text;
};

constexpr error_text error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidPitchValue, "cudaErrorInvalidPitchValue", "invalid pitch argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorStubLibrary, "cudaErrorStubLibrary", "CUDA driver is a stub library"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const error_text* find_error_text(cudaError_t code) {
    const auto* found = std::ranges::find(error_texts, code, &error_text::code);
    return found == std::end(error_texts) ? nullptr : found;
}

bool device_exists(int device) {
    return device >= 0 && device < control().devices;
}

// -1: not emulated.
int device_attribute(cudaDeviceAttr attribute) {
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: return most_threads;
        case cudaDevAttrMaxGridDimY:
        case cudaDevAttrMaxGridDimZ: return most_blocks_y;
        case cudaDevAttrMaxSharedMemoryPerBlock: return shared_bytes_by_default;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: return most_shared_bytes;
        case cudaDevAttrWarpSize: return 32;
        case cudaDevAttrMultiProcessorCount: return multiprocessors;
        case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
        case cudaDevAttrL2CacheSize: return 50 << 20;
        case cudaDevAttrComputeCapabilityMajor: return 9;
        case cudaDevAttrComputeCapabilityMinor: return 0;
        case cudaDevAttrMemoryPoolsSupported: return control().memory_pools ? 1 : 0;
        case cudaDevAttrUnifiedAddressing: return 1;
        default: return -1;
    }
}

// One more task is done each time somebody asks, so that asking again and again comes to an end.
cudaError_t is_done(const position& until) {
    if (until.on->finished < until.tasks) {
        run_until({until.on, until.on->finished + 1});
        return fail(cudaErrorNotReady);
    }
    wait_until(until);
    return after_waiting();
}

cudaError_t create_stream(const runtime_call& call, cudaStream_t* made, unsigned flags) {
    if (made == nullptr || (flags & ~unsigned(cudaStreamNonBlocking)) != 0) {
        return misuse(call, "unknown flags, or nowhere to put the stream");
    }
    *made = static_cast<cudaStream_t>(add_stream((flags & cudaStreamNonBlocking) == 0));
    ++control().live.streams;
    return cudaSuccess;
}

cudaError_t create_event(const runtime_call& call, cudaEvent_t* made, unsigned flags) {
    if (made == nullptr || (flags & ~unsigned(cudaEventDisableTiming | cudaEventBlockingSync)) != 0) {
        return misuse(call, "unknown flags, or nowhere to put the event");
    }
    auto e = std::make_shared<event>();
    e->timing = (flags & cudaEventDisableTiming) == 0;
    *made = static_cast<cudaEvent_t>(events().add(std::move(e)));
    ++control().live.events;
    return cudaSuccess;
}

std::shared_ptr<event> find_event(const entry& call, cudaEvent_t handle) {
    const auto* found = events().find(handle);
    if (found == nullptr) {
        violation(call.function() + ": not a live event");
        return nullptr;
    }
    return *found;
}

bool launch_fits(dim3 grid, dim3 block) {
    const bool blocks = grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffffu && grid.y <= most_blocks_y &&
                        grid.z <= most_blocks_y;
    const bool threads = block.x >= 1 && block.y >= 1 && block.z >= 1 && block.x <= most_threads &&
                         block.y <= most_threads && block.z <= 64 && block.x * block.y * block.z <= most_threads;
    return blocks && threads;
}

bool shared_memory_fits(const void* kernel, std::size_t bytes) {
    const auto found = shared_memory_limits().find(kernel);
    const int limit = found == shared_memory_limits().end() ? shared_bytes_by_default : found->second;
    return bytes <= static_cast<std::size_t>(std::max(limit, shared_bytes_by_default));
}

}  // namespace

cudaError_t admit_launch(const void* kernel, dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t handle) {
    const runtime_call call("launch");
    if (call.refused()) {
        return call.status();
    }
    const auto on = find_stream(call.function(), handle);
    if (on == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (handle != nullptr && on->device != current_device()) {
        return misuse(call, "the stream belongs to another device than the current one",
                      cudaErrorInvalidResourceHandle);
    }
    if (!launch_fits(grid, block)) {
        return misuse(call, "no such grid or block can be launched", cudaErrorInvalidConfiguration);
    }
    if (!shared_memory_fits(kernel, shared_bytes)) {
        return misuse(call, "more shared memory than the kernel may have");
    }
    return cudaSuccess;
}

}  // namespace stand_in::detail

using namespace stand_in::detail;
using stand_in::control;

extern "C" {

// ---- Versions and errors

cudaError_t CUDARTAPI cudaRuntimeGetVersion(int* version) {
    const runtime_call call(__func__, needs::nothing);
    *version = CUDART_VERSION;
    return call.status();
}

cudaError_t CUDARTAPI cudaDriverGetVersion(int* version) {
    const runtime_call call(__func__, needs::nothing);
    *version = control().driver ? CUDART_VERSION : 0;
    return call.status();
}

cudaError_t CUDARTAPI cudaPeekAtLastError(void) {
    return sticky_error() != 0 ? static_cast<cudaError_t>(sticky_error()) : last_error();
}

cudaError_t CUDARTAPI cudaGetLastError(void) {
    const cudaError_t last = cudaPeekAtLastError();
    if (control().driver) {  // without one it stays, as the real runtime does it
        last_error() = cudaSuccess;
    }
    return last;
}

const char* CUDARTAPI cudaGetErrorName(cudaError_t code) {
    const error_text* found = find_error_text(code);
    return found == nullptr ? "unrecognized error code" : found->name;
}

const char* CUDARTAPI cudaGetErrorString(cudaError_t code) {
    const error_text* found = find_error_text(code);
    return found == nullptr ? "unrecognized error code" : found->text;
}

// ---- Devices

cudaError_t CUDARTAPI cudaGetDeviceCount(int* count) {
    const runtime_call call(__func__, needs::driver);
    if (call.refused()) {
        return call.status();  // *count stays as it was, as the real runtime leaves it
    }
    *count = control().devices;
    return control().devices == 0 ? fail(cudaErrorNoDevice) : cudaSuccess;
}

cudaError_t CUDARTAPI cudaGetDevice(int* device) {
    const runtime_call call(__func__);
    if (!call.refused()) {
        *device = current_device();
    }
    return call.status();
}

cudaError_t CUDARTAPI cudaSetDevice(int device) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (!device_exists(device)) {
        return fail(cudaErrorInvalidDevice);
    }
    current_device() = device;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (!device_exists(device)) {
        return fail(cudaErrorInvalidDevice);
    }
    const int found = device_attribute(attribute);
    if (found < 0) {
        return misuse(call, "the stand-in does not know attribute " + std::to_string(attribute));
    }
    *value = found;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (!device_exists(device)) {
        return fail(cudaErrorInvalidDevice);
    }
    *properties = cudaDeviceProp{};
    std::snprintf(properties->name, sizeof properties->name, "stand-in %d", device);
    properties->major = device_attribute(cudaDevAttrComputeCapabilityMajor);
    properties->minor = device_attribute(cudaDevAttrComputeCapabilityMinor);
    properties->totalGlobalMem = control().capacity;
    properties->multiProcessorCount = multiprocessors;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = most_threads;
    properties->sharedMemPerBlock = shared_bytes_by_default;
    properties->sharedMemPerBlockOptin = most_shared_bytes;
    properties->l2CacheSize = device_attribute(cudaDevAttrL2CacheSize);
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaDeviceSynchronize(void) {
    const runtime_call call(__func__);
    if (call.refused()) {
        drop_every_stream();
        return call.status();
    }
    wait_for_every_stream();
    return after_waiting();
}

cudaError_t CUDARTAPI cudaMemGetInfo(size_t* free_bytes, size_t* total) {
    const runtime_call call(__func__);
    if (!call.refused()) {
        *free_bytes = control().capacity - std::min(control().used, control().capacity);
        *total = control().capacity;
    }
    return call.status();
}

// ---- Streams

cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t* made, unsigned int flags) {
    const runtime_call call(__func__);
    return call.refused() ? call.status() : create_stream(call, made, flags);
}

cudaError_t CUDARTAPI cudaStreamDestroy(cudaStream_t handle) {
    const runtime_call call(__func__);
    const auto on = find_stream(call.function(), handle);
    if (on == nullptr || handle == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    run_all(on);
    remove_stream(handle);
    --control().live.streams;
    return call.status();
}

cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t handle) {
    const runtime_call call(__func__);
    const auto on = find_stream(call.function(), handle);
    if (on == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (call.refused()) {
        drop_pending(*on);
        return call.status();
    }
    wait_for_all(on);
    return after_waiting();
}

cudaError_t CUDARTAPI cudaStreamQuery(cudaStream_t handle) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const auto on = find_stream(call.function(), handle);
    return on == nullptr ? fail(cudaErrorInvalidResourceHandle) : is_done({on, on->enqueued});
}

cudaError_t CUDARTAPI cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned int) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const auto on = find_stream(call.function(), handle);
    const auto waited_for = find_event(call, event_handle);
    if (on == nullptr || waited_for == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (waited_for->recorded) {
        submit(on, {[] {}, {waited_for->at}, false});
    }
    return cudaSuccess;
}

// ---- Events

cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t* made, unsigned int flags) {
    const runtime_call call(__func__);
    return call.refused() ? call.status() : create_event(call, made, flags);
}

cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t handle) {
    const runtime_call call(__func__);
    if (!events().remove(handle)) {
        return misuse(call, "not a live event", cudaErrorInvalidResourceHandle);
    }
    --control().live.events;
    return call.status();
}

cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const auto on = find_stream(call.function(), stream_handle);
    const auto recorded = find_event(call, handle);
    if (on == nullptr || recorded == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    recorded->recorded = true;
    recorded->at = {on, on->enqueued + 1};
    submit(on, {[recorded] { recorded->when = std::chrono::steady_clock::now(); }, {}, true});
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaEventSynchronize(cudaEvent_t handle) {
    const runtime_call call(__func__);
    const auto waited_for = find_event(call, handle);
    if (waited_for == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (!waited_for->recorded) {
        return call.status();
    }
    if (call.refused()) {
        drop_pending(*waited_for->at.on);
        return call.status();
    }
    wait_until(waited_for->at);
    return after_waiting();
}

cudaError_t CUDARTAPI cudaEventQuery(cudaEvent_t handle) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const auto asked = find_event(call, handle);
    if (asked == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    return asked->recorded ? is_done(asked->at) : cudaSuccess;
}

cudaError_t CUDARTAPI cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const auto first = find_event(call, start);
    const auto last = find_event(call, end);
    if (first == nullptr || last == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (!first->recorded || !last->recorded || !first->timing || !last->timing) {
        return misuse(call, "an event that has no time", cudaErrorInvalidResourceHandle);
    }
    if (first->at.on->finished < first->at.tasks || last->at.on->finished < last->at.tasks) {
        return fail(cudaErrorNotReady);
    }
    *milliseconds = std::chrono::duration<float, std::milli>(last->when - first->when).count();
    return cudaSuccess;
}

// ---- Memory

cudaError_t CUDARTAPI cudaMalloc(void** p, size_t bytes) {
    const runtime_call call(__func__);
    return call.refused() ? call.status() : allocate_device(call, p, bytes);
}

cudaError_t CUDARTAPI cudaMallocAsync(void** p, size_t bytes, cudaStream_t handle) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (find_stream(call.function(), handle) == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    return control().memory_pools ? allocate_device(call, p, bytes) : fail(cudaErrorNotSupported);
}

cudaError_t CUDARTAPI cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t pool_handle, cudaStream_t handle) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (find_stream(call.function(), handle) == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    if (pool_handle != default_pool() && pools().find(pool_handle) == nullptr) {
        return misuse(call, "not a live pool");
    }
    return control().memory_pools ? allocate_device(call, p, bytes) : fail(cudaErrorNotSupported);
}

cudaError_t CUDARTAPI cudaFree(void* p) {
    const runtime_call call(__func__);
    if (p == nullptr) {
        return call.status();
    }
    wait_for_every_stream();  // the real one waits as well
    if (!give_back(call, p, memory_kind::device)) {
        return fail(cudaErrorInvalidValue);
    }
    heap().release(p);
    return call.status();
}

cudaError_t CUDARTAPI cudaFreeAsync(void* p, cudaStream_t handle) {
    const runtime_call call(__func__);
    if (p == nullptr) {
        return call.status();
    }
    const auto on = find_stream(call.function(), handle);
    if (on == nullptr || !give_back(call, p, memory_kind::device)) {
        return fail(cudaErrorInvalidValue);
    }
    submit(on, {[p] { heap().release(p); }, {}, true});
    return call.status();
}

cudaError_t CUDARTAPI cudaMallocHost(void** p, size_t bytes) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const cudaError_t code = allocate(call, p, bytes, memory_kind::pinned);
    if (code == cudaSuccess && *p != nullptr) {
        ++control().live.host_buffers;
    }
    return code;
}

cudaError_t CUDARTAPI cudaFreeHost(void* p) {
    const runtime_call call(__func__);
    if (p == nullptr) {
        return call.status();
    }
    if (!give_back(call, p, memory_kind::pinned)) {
        return fail(cudaErrorInvalidValue);
    }
    heap().release(p);  // at once: a copy that is still pending dies of it
    return call.status();
}

cudaError_t CUDARTAPI cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t on) {
    const runtime_call call(__func__);
    return call.refused() ? call.status() : copy(call, to, bytes, from, bytes, bytes, 1, kind, on);
}

cudaError_t CUDARTAPI cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                                        size_t height, cudaMemcpyKind kind, cudaStream_t on) {
    const runtime_call call(__func__);
    return call.refused() ? call.status() : copy(call, to, to_pitch, from, from_pitch, width, height, kind, on);
}

cudaError_t CUDARTAPI cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t handle) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const auto on = find_stream(call.function(), handle);
    if (on == nullptr) {
        return fail(cudaErrorInvalidResourceHandle);
    }
    const auto count = static_cast<index_t>(bytes);
    if (!inside_allocation(call.function(), "destination", p, count, 1, count, 1)) {
        return fail(cudaErrorInvalidValue);
    }
    if (bytes != 0) {
        submit(on, {[=] { std::memset(p, value, bytes); }, {}, false});
    }
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    *attributes = cudaPointerAttributes{};
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->device = -2;
    attributes->hostPointer = const_cast<void*>(p);
    const allocation* a = heap().find(p);
    if (a != nullptr) {
        const bool is_device = a->kind == memory_kind::device;
        attributes->type = is_device ? cudaMemoryTypeDevice : cudaMemoryTypeHost;
        attributes->device = a->device;
        attributes->devicePointer = const_cast<void*>(p);
        attributes->hostPointer = is_device ? nullptr : const_cast<void*>(p);
    }
    return cudaSuccess;
}

// ---- Pools

cudaError_t CUDARTAPI cudaDeviceGetDefaultMemPool(cudaMemPool_t* found, int device) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (!device_exists(device)) {
        return fail(cudaErrorInvalidDevice);
    }
    *found = default_pool();
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMemPoolCreate(cudaMemPool_t* made, const cudaMemPoolProps* properties) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (!control().memory_pools) {
        return fail(cudaErrorNotSupported);
    }
    const bool right = properties->allocType == cudaMemAllocationTypePinned &&
                       properties->location.type == cudaMemLocationTypeDevice && device_exists(properties->location.id);
    if (!right) {
        return misuse(call, "a pool needs pinned allocations on a device");
    }
    *made = static_cast<cudaMemPool_t>(pools().add(pool{}));
    ++control().live.pools;
    return cudaSuccess;
}

cudaError_t CUDARTAPI cudaMemPoolDestroy(cudaMemPool_t handle) {
    const runtime_call call(__func__);
    if (!pools().remove(handle)) {
        return misuse(call, "not a live pool");
    }
    --control().live.pools;
    return call.status();
}

cudaError_t CUDARTAPI cudaMemPoolSetAttribute(cudaMemPool_t handle, cudaMemPoolAttr, void* value) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    const bool live = handle == default_pool() || pools().find(handle) != nullptr;
    return live && value != nullptr ? cudaSuccess : misuse(call, "not a live pool, or no value");
}

// ---- Kernels

cudaError_t CUDARTAPI cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    const runtime_call call(__func__);
    if (call.refused()) {
        return call.status();
    }
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) {
        return misuse(call, "the stand-in does not know this attribute");
    }
    if (value < 0 || value > most_shared_bytes) {
        return misuse(call, "more shared memory than the device has");
    }
    shared_memory_limits()[kernel] = value;
    return cudaSuccess;
}

}  // extern "C"
