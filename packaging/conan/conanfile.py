# SPDX-License-Identifier: Apache-2.0
import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load

required_conan_version = ">=2.0"


class Isic(ConanFile):
    name = "isic"
    description = "Codebook surgery on autoregressive image generators"
    license = "Apache-2.0"
    topics = ("vector-quantisation", "codebook", "image-generation", "safety", "concept-erasure")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "fPIC": [True, False], "system_headers": [True, False], "cuda": [True, False]}
    default_options = {"shared": False, "fPIC": True, "system_headers": True, "cuda": False}
    implements = ["auto_shared_fpic"]

    @property
    def _checkout(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        version = load(self, os.path.join(self._checkout, "include", "isic", "version.hpp"))
        self.version = re.search(r'#define ISIC_VERSION_STRING "([^"]+)"', version).group(1)

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "src/*"):
            copy(self, pattern, src=self._checkout, dst=self.export_sources_folder)

    def requirements(self):
        if not self.options.system_headers:
            # In the library's files only, except for who uses isic::header_only.
            for package in ("eigen/3.4.0", "fmt/10.2.1", "highway/1.2.0", "xxhash/0.8.2", "nlohmann_json/3.11.3"):
                self.requires(package, transitive_headers=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def layout(self):
        cmake_layout(self)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for option in ("ISIC_TESTS", "ISIC_EXAMPLES"):
            toolchain.cache_variables[option] = False
        toolchain.cache_variables["ISIC_INSTALL"] = True
        toolchain.cache_variables["ISIC_CUDA"] = bool(self.options.cuda)
        if not self.options.system_headers:
            CMakeDeps(self).generate()
            for package, variable in (("highway", "ISIC_HIGHWAY_INCLUDE_DIR"), ("xxhash", "ISIC_XXHASH_INCLUDE_DIR")):
                toolchain.cache_variables[variable] = self.dependencies[package].cpp_info.includedirs[0]
        toolchain.generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        CMake(self).install()
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))

    def package_info(self):
        # isicConfig.cmake, which is installed with the library, defines the targets.
        self.cpp_info.set_property("cmake_find_mode", "none")
        self.cpp_info.builddirs = [os.path.join("lib", "cmake", "isic")]
        self.cpp_info.libs = ["isic"]
        if self.settings.os in ("Linux", "FreeBSD"):
            self.cpp_info.system_libs = ["pthread"]
