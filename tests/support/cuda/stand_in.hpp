// SPDX-License-Identifier: Apache-2.0
/// \file
/// CUDA runtime, cuBLAS and cuSOLVER in plain C++, linked in place of the real ones by tests on machines without a GPU.
/// This is what a test sees of it: what to make fail, and what was found.
///
/// It is stricter than a device. Device memory ends at a guard page, cannot be touched by the host, is full of NaN when
/// new and never used twice; every pointer, size and leading dimension is checked when the call is made; work runs only
/// when somebody waits for it. It knows nothing about speed, and its arithmetic is double throughout.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace stand_in {

/// Makes a call of an entry point fail.
struct fault {
    int nth = 1;          ///< which call since `reset`, from 1; 0: every call
    int code = 1;         ///< what it returns
    bool sticky = false;  ///< every later call fails as well, as after an illegal address
};

/// What was made and not yet destroyed.
struct live_objects {
    int streams = 0;
    int events = 0;
    int pools = 0;
    int buffers = 0;
    int host_buffers = 0;
    int blas = 0;
    int solvers = 0;
    int params = 0;
    int gesvdj_infos = 0;
    int syevj_infos = 0;

    bool operator==(const live_objects&) const = default;
};

struct state {
    bool driver = true;                           ///< false: cudaErrorInsufficientDriver
    int devices = 1;                              ///< 0: cudaErrorNoDevice
    bool memory_pools = true;                     ///< what cudaDevAttrMemoryPoolsSupported says
    bool deferred = true;                         ///< work runs when somebody waits for it; false: at once
    std::size_t capacity = std::size_t(1) << 30;  ///< bytes of device memory
    std::size_t used = 0;                         ///< bytes allocated now
    std::size_t peak = 0;                         ///< the most that was allocated
    live_objects live;
    std::map<std::string, int> calls;     ///< by entry point, without _v2; "launch": kernels
    std::map<std::string, fault> faults;  ///< by the same names
    std::map<std::string, int> info;      ///< by routine ("syevd"): what it writes to devInfo
    bool gesvdj_gives_nan = false;        ///< for vectors, and says that it converged
    std::vector<std::string> violations;  ///< what was done wrong
};

/// To be set and read by tests.
state& control();

/// Forgets everything, also what is still alive: later use of it is a violation.
void reset();

/// Nothing leaked, nothing pending, nothing wrong.
bool quiescent();

/// What keeps it from being quiescent, for the message of a test.
std::string report();

void violation(std::string text);

/// Runs `work` in the order of `stream`, with device memory accessible.
void enqueue(void* stream, std::function<void()> work);

}  // namespace stand_in
