# SPDX-License-Identifier: Apache-2.0
# Installs the build tree `build` into `stage` and moves it to stage/moved, so that a path that was
# written down during the installation leads nowhere.
file(REMOVE_RECURSE ${stage})
execute_process(COMMAND ${CMAKE_COMMAND} --install ${build} --config ${config} --prefix ${stage}/first
  COMMAND_ERROR_IS_FATAL ANY)
file(RENAME ${stage}/first ${stage}/moved)
