// SPDX-License-Identifier: Apache-2.0
// What tests/python/cuda_test.py sees of the stand-in, by ctypes.
#include <support/cuda/stand_in.hpp>

#define ISIC_SEEN_BY_CTYPES extern "C" __attribute__((visibility("default")))

ISIC_SEEN_BY_CTYPES int isic_stand_in_buffers() {
    return stand_in::control().live.buffers;
}

/// What was done wrong since it was last asked, in one line.
ISIC_SEEN_BY_CTYPES const char* isic_stand_in_violations() {
    static std::string text;
    text.clear();
    for (const std::string& violation : stand_in::control().violations) {
        text += violation + "; ";
    }
    stand_in::control().violations.clear();
    return text.c_str();
}

/// How often an entry point was called.
ISIC_SEEN_BY_CTYPES int isic_stand_in_calls(const char* function) {
    return stand_in::control().calls[function];
}

/// The next call of an entry point fails.
ISIC_SEEN_BY_CTYPES void isic_stand_in_fail_next(const char* function, int code) {
    stand_in::control().faults[function] = {stand_in::control().calls[function] + 1, code, false};
}

ISIC_SEEN_BY_CTYPES void isic_stand_in_devices(int count, bool driver) {
    stand_in::control().devices = count;
    stand_in::control().driver = driver;
}
