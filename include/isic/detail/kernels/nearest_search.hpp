// SPDX-License-Identifier: Apache-2.0
/// \file
/// Nearest-neighbour search by one thread: a k-d tree, int8 or float32 scores leave a few candidates per query, and
/// distances in float64 re-rank them.
#pragma once

#include <isic/detail/kernels/distances.hpp>
#include <isic/detail/kernels/rows.hpp>
#include <isic/detail/kernels/search_workspace.hpp>

namespace isic::inline ISIC_ABI::detail::kernels {

/// The nearest-neighbour search of a call, run by each thread on a range of the vectors.
template <class T>
struct nearest_search {
    code_panels panels;
    code_rows<T> rows;
    const kd_tree_view* tree;     // null: no k-d tree
    const int8_kernels* kernels;  // null: no int8 scores
    int8_codes codes_int8;
    double int8_norm;   // largest norm of a code plus its quantisation error, in units of its scale
    double int8_error;  // largest quantisation error of a code, likewise
    const T* center;
    double largest_norm;  // upper bound of ||c - centre||
    index_t first;        // first eligible code
    tile_shape shape;
    simd level;
    index_t block;  // queries of a block
    const T* vectors;
    index_t stride;
    index_t* ids;
    double* distances;  // null: not wanted

    /// Finds the nearest codes of the vectors [begin, end).
    void run(index_t begin, index_t end, search_workspace<T>& space) const {
        bool prune_first = tree != nullptr || kernels != nullptr;
        index_t pending = 0;
        for (index_t start = begin; start < end; start += block) {
            query<T>* const accepted = space.pending.data() + pending;
            index_t count = accept(start, std::min(start + block, end), accepted);
            if (prune_first) {
                const pruning_result result = prune_block(accepted, count, space);
                prune_first = rows.count * result.undecided + result.cost < rows.count * count / 2;
                count = result.undecided;
            }
            pending += count;
            const bool is_last = start + block >= end;
            while (pending >= block || (pending > 0 && is_last)) {
                const index_t some = std::min(pending, block);
                pending -= some;
                search_exhaustively(space.pending.data() + pending, some, space);
            }
        }
        rerank_ambiguous(space);
    }

private:
    /// Result of pruning a block of queries.
    struct pruning_result {
        index_t undecided;  // queries without a match, moved to the front
        index_t cost;       // of the others, in codes compared by float32 scores
    };

    /// Makes queries of the vectors [begin, end). Vectors with NaN or infinity get the first eligible code instead.
    /// Returns the number of queries.
    index_t accept(index_t begin, index_t end, query<T>* to) const {
        index_t count = 0;
        for (index_t i = begin; i < end; ++i) {
            const T* const z = vectors + i * stride;
            const double norm = distance_bound(z, center, rows.width);
            if (std::isfinite(norm) || all_finite(z, rows.width)) {  // a finite norm implies finite values
                to[count++] = {z, i, norm, {}};
            } else {
                store_match(i, {std::numeric_limits<double>::quiet_NaN(), first});
            }
        }
        return count;
    }

    void store_match(index_t i, const best_match& best) const {
        ids[i] = best.id;
        if (distances != nullptr) {
            distances[i] = best.distance;
        }
    }

    /// Stores the match of a vector. Where its distance overflows or underflows float64, finds it again by scaled
    /// distances.
    void finish(index_t i, const best_match& best) const {
        if constexpr (sizeof(T) == sizeof(double)) {  // squares of float32 values fit float64
            const T* const z = vectors + i * stride;
            if (!is_decided(z, best)) {
                const index_t id = nearest_scaled(z, best.id < 0);
                store_match(i, {squared_distances<1>(z, {rows.row(id)}, rows.width)[0], id});
                return;
            }
        }
        store_match(i, best);
    }

    /// Whether float64 represents the distance: not overflow, and not the rounding of denormals.
    bool is_decided(const T* z, const best_match& best) const {
        if (best.id < 0) {
            return false;  // every distance is infinite
        }
        const bool small = best.distance < static_cast<double>(rows.width) * std::numeric_limits<double>::min();
        return !small || std::equal(z, z + rows.width, rows.row(best.id));
    }

    /// The nearest of all codes by distances scaled by a power of two, so that their squares fit float64.
    index_t nearest_scaled(const T* z, bool overflows) const {
        const double before = overflows ? 0x1p-600 : 1;  // the differences may overflow too
        const double after = overflows ? 1 : 0x1p600;
        best_match nearest;
        for (index_t id = 0; id < rows.count; ++id) {
            if (!rows.is_eligible(id)) {
                continue;
            }
            const T* const code = rows.row(id);
            double square = 0;
            for (index_t k = 0; k < rows.width; ++k) {
                const double step =
                    (static_cast<double>(z[k]) * before - static_cast<double>(code[k]) * before) * after;
                square += step * step;
            }
            nearest.update(square, id);
        }
        return nearest.id;
    }

    pruning_result prune_block(query<T>* queries, index_t count, search_workspace<T>& space) const {
        return tree != nullptr ? prune_by_tree(queries, count, space) : prune_by_int8(queries, count, space);
    }

    /// Matches the queries for which the k-d tree leaves few candidates.
    pruning_result prune_by_tree(query<T>* queries, index_t count, search_workspace<T>& space) const {
        float* const values = space.kd.rows.data();
        for (index_t i = 0; i < count; ++i) {
            float* const row = values + i * tree->width;
            std::fill(row + rows.width, row + tree->width, 0.0F);
            float32_difference(queries[i].vector, center, rows.width, row);
        }
        kd_candidates* const candidates = space.kd.candidates.data();
        const index_t leaves = kd_search(level, *tree, values, count, space.kd.scratch(), candidates);
        pruning_result result{0, leaves * leaf_size};
        for (index_t i = 0; i < count; ++i) {
            if (candidates[i].count < 0) {
                queries[result.undecided++] = queries[i];
            } else {
                rerank(queries[i], candidates[i].ids, candidates[i].count, space.distances.data());
            }
        }
        return result;
    }

    /// Matches the queries for which int8 scores leave few candidates.
    pruning_result prune_by_int8(query<T>* queries, index_t count, search_workspace<T>& space) const {
        int8_workspace& int8 = space.int8;
        const index_t tiles = int8_tiles(count);
        quantise_block(queries, count, tiles, int8);
        kernels->prune(codes_int8, int8.values.data(), int8.queries.data(), tiles, int8.candidates());
        pruning_result result{0, 0};
        for (index_t i = 0; i < count; ++i) {
            const int8_query& quantised = int8.queries[static_cast<std::size_t>(i)];
            if (quantised.undecided()) {
                queries[result.undecided++] = queries[i];
                continue;
            }
            result.cost += 16 * quantised.count;
            const index_t list = i * int8_list_capacity;
            index32* const candidates = int8.ids.data() + list;
            const index_t left = drop_excluded(quantised, int8.lower_bounds.data() + list, candidates);
            rerank(queries[i], candidates, left, space.distances.data());
        }
        return result;
    }

    /// Quantises a block of queries to int8; padding of the last tile is undecided.
    void quantise_block(const query<T>* queries, index_t count, index_t tiles, int8_workspace& int8) const {
        for (index_t i = 0; i < tiles * int8_tile::queries; ++i) {
            int8_query& quantised = int8.queries[static_cast<std::size_t>(i)];
            quantised = {};
            if (i < count) {
                quantise(queries[i], i, quantised, int8);
            } else {
                quantised.set_undecided();
            }
        }
    }

    /// Quantises query i of a block to int8.
    void quantise(const query<T>& z, index_t i, int8_query& out, int8_workspace& int8) const {
        float32_difference(z.vector, center, rows.width, int8.row.data());
        const int8_row row = kernels->quantise(int8.row.data(), rows.width, int8.quantised.data());
        constexpr index_t q = int8_tile::queries;
        std::int32_t* const to = int8.values.data() + i / q * q * codes_int8.quads + i % q;
        for (index_t k = 0; k < codes_int8.quads; ++k) {
            hwy::CopyBytes<4>(int8.quantised.data() + 4 * k, to + k * q);
        }
        const double norm = std::sqrt(static_cast<double>(row.squared_norm));
        const double error = norm * int8_error + quantisation_error(row, rows.width) * int8_norm;
        out.scale = row.scale;
        out.error = round_up(static_cast<double>(row.scale) * error);
        out.slack = round_up(2 * score_error(z.norm, largest_norm, rows.width));
        out.offset = -128 * row.sum;
        if (row.scale == 0 || !std::isfinite(out.slack)) {
            out.set_undecided();
        }
    }

    /// Drops the candidates that the final bound excludes. Returns the number left.
    static index_t drop_excluded(const int8_query& quantised, const float* lower_bounds, index32* candidates) {
        index_t count = 0;
        for (index_t i = 0; i < quantised.count; ++i) {
            if (lower_bounds[i] <= quantised.bound) {
                candidates[count++] = candidates[i];
            }
        }
        return count;
    }

    /// Re-ranks candidates by distances in float64 and stores the match. distance: scratch memory [count].
    void rerank(const query<T>& z, index32* candidates, index_t count, double* distance) const {
        if (count > 3) {
            count = drop_farther(z.vector, candidates, count, distance);
        }
        if (count == 1 && distances == nullptr) {
            store_match(z.index, {0, static_cast<index_t>(candidates[0])});
        } else {
            finish(z.index,
                   nearest_of(z.vector, count, [&](index_t i) { return static_cast<index_t>(candidates[i]); }));
        }
    }

    /// Drops the candidates that SIMD distances show to be farther than another. Returns the number left.
    index_t drop_farther(const T* z, index32* candidates, index_t count, double* distance) const {
        reassociated_distances(level, z, rows, candidates, count, distance);
        const double limit = reassociation_bound(*std::min_element(distance, distance + count));
        index_t left = 0;
        for (index_t i = 0; i < count; ++i) {
            if (!(distance[i] > limit)) {  // keeps overflowed distances if all are
                candidates[left++] = candidates[i];
            }
        }
        return left;
    }

    /// Largest value that the sum of `distance` may have in another order of summation.
    double reassociation_bound(double distance) const {
        const double terms = static_cast<double>(4 * (rows.width + 10));
        return distance * (1 + terms * std::numeric_limits<double>::epsilon()) +
               terms * std::numeric_limits<double>::min();
    }

    /// Packs queries in tiles, centre subtracted, padding zero. Returns the number of tiles.
    index_t pack(const query<T>* queries, index_t count, float* to) const {
        const index_t q = shape.queries;
        const index_t tiles = (count + q - 1) / q;
        for (index_t i = 0; i < tiles * q; ++i) {
            float* const out = to + i / q * q * rows.width + i % q;
            for (index_t k = 0; k < rows.width; ++k) {
                out[k * q] = i >= count ? 0.0F : float32_difference(queries[i].vector[k], center[k]);
            }
        }
        return tiles;
    }

    /// Matches queries, at most a block, by float32 scores of all codes. Ambiguous ones are kept for
    /// `rerank_ambiguous`.
    void search_exhaustively(const query<T>* queries, index_t count, search_workspace<T>& space) const {
        const index_t tiles = pack(queries, count, space.packed.data());
        find_best_scores(level, panels, space.packed.data(), tiles, space.minima.data(), space.scores.data());
        for (index_t i = 0; i < count; ++i) {
            space.candidates[static_cast<std::size_t>(i)] =
                candidate_of(queries[i], space.scores[static_cast<std::size_t>(i)], space);
        }
        for (index_t i = 0; i < count; ++i) {
            const index_t candidate = space.candidates[static_cast<std::size_t>(i)];
            if (candidate >= 0) {
                const auto code_at = [&](index_t v) { return candidate + v * shape.lanes; };
                finish(queries[i].index, nearest_of(queries[i].vector, shape.code_vectors, code_at));
            }
        }
    }

    /// The first code of the column with the best score, prefetched; -1 if another column may hold the nearest code:
    /// the query is ambiguous.
    index_t candidate_of(const query<T>& z, const best_scores& scores, search_workspace<T>& space) const {
        const double error = 2 * score_error(z.norm, largest_norm, rows.width);
        if (static_cast<double>(scores.second) - static_cast<double>(scores.best) > error) {
            prefetch_column(scores.code);
            return scores.code;
        }
        if (space.ambiguous_count == block) {  // overwrites the packed queries, which are no longer needed
            rerank_ambiguous(space);
        }
        const auto at = static_cast<std::size_t>(space.ambiguous_count++);
        space.ambiguous[at] = z;
        space.thresholds[at] = round_up(static_cast<double>(scores.best) + error);
        return -1;
    }

    /// Prefetches the codes of a column: code, code + lanes, ...
    void prefetch_column(index_t code) const {
        for (index_t v = 0; v < shape.code_vectors; ++v) {
            const index_t id = code + v * shape.lanes;
            if (rows.is_eligible(id)) {
                prefetch_row(rows.row(id), rows.width);
            }
        }
    }

    /// The nearest of the codes code_at(0), ..., code_at(count - 1), three at a time.
    template <class CodeAt>
    best_match nearest_of(const T* z, index_t count, const CodeAt& code_at) const {
        const auto is_eligible = [&](index_t i) { return i < count && rows.is_eligible(code_at(i)); };
        best_match nearest;
        for (index_t i = 0; i < count; i += 3) {
            std::array<const T*, 3> at;
            for (index_t j = 0; j < 3; ++j) {
                at[static_cast<std::size_t>(j)] = is_eligible(i + j) ? rows.row(code_at(i + j)) : rows.row(first);
            }
            const auto distance = squared_distances(z, at, rows.width);
            for (index_t j = 0; j < 3; ++j) {
                if (is_eligible(i + j)) {
                    nearest.update(distance[static_cast<std::size_t>(j)], code_at(i + j));
                }
            }
        }
        return nearest;
    }

    /// Re-ranks the codes that the float32 scores of the ambiguous queries do not exclude, and stores the matches.
    void rerank_ambiguous(search_workspace<T>& space) const {
        const index_t count = space.ambiguous_count;
        if (count == 0) {
            return;
        }
        space.ambiguous_count = 0;
        query<T>* const queries = space.ambiguous.data();
        const index_t tiles = pack(queries, count, space.packed.data());
        auto visit = [&](index_t i, index_t code) { update_match(queries[i], code); };
        const candidate_visitor visitor{
            &visit, [](void* context, index_t i, index_t code) { (*static_cast<decltype(&visit)>(context))(i, code); }};
        visit_candidates(level, panels, space.packed.data(), tiles, space.thresholds.data(), count, visitor);
        for (index_t i = 0; i < count; ++i) {
            finish(queries[i].index, queries[i].best);
        }
    }

    /// Keeps a code as the best match of a query if it is nearer.
    void update_match(query<T>& z, index_t code) const {
        if (!rows.is_eligible(code)) {
            return;
        }
        const auto id = static_cast<index32>(code);
        double distance;
        reassociated_distances(level, z.vector, rows, &id, 1, &distance);
        if (!(distance > reassociation_bound(z.best.distance))) {
            z.best.update(squared_distances<1>(z.vector, {rows.row(code)}, rows.width)[0], code);
        }
    }
};

}  // namespace isic::inline ISIC_ABI::detail::kernels
