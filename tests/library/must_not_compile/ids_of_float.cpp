// SPDX-License-Identifier: Apache-2.0
// Token ids are whole numbers; embeddings in their place are a mistake.
// expect: no matching (member )?function for call to .*add
#include <isic/differences.hpp>

#include <vector>

void check(isic::difference_accumulator& pairs, const std::vector<int>& ids, const std::vector<float>& rows) {
    pairs.add(ids, ids);
#ifdef ISIC_BROKEN
    pairs.add(rows, ids);
#endif
    static_cast<void>(rows);
}
