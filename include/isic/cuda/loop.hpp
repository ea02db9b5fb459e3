// SPDX-License-Identifier: Apache-2.0
/// \file
/// self_improve with a generator whose codebook lies on a device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <isic/cuda/matrix.hpp>
#include <isic/loop.hpp>

namespace isic::inline ISIC_ABI {

/// A `generator` whose codebook is on a device: device_codebook() in place of codebook().
///
/// decode() must read device_codebook() as it is at the time of the call, on the backend's stream or ordered after it.
template <class G>
concept device_generator =
    requires(G& g, std::span<const std::string> prompts, std::uint64_t seed, const token_grid& tokens) {
        requires mutable_device_matrix_like<std::remove_reference_t<decltype(g.device_codebook())>>;
        { g.generate(prompts, seed) } -> std::same_as<token_grid>;
        g.decode(tokens);
    };

namespace cuda::detail {

/// Keeps a host copy of a codebook and its device original in step. Not thread-safe.
class codebook_mirror {
public:
    /// Downloads the codebook into `host` [K x d], which must outlive the mirror. Waits. Errors: shape_error unless shape and type
    /// agree; cuda_error.
    codebook_mirror(std::shared_ptr<state> s, any_device_view device, any_span host);

    /// Uploads the host copy if its bytes have changed since the last transfer. Waits then. Errors: as the constructor.
    void send(any_device_span device);

private:
    std::shared_ptr<state> state_;
    any_span host_;
    std::uint64_t sent_;  // fingerprint of the bytes on the device
};

/// Adapts a device generator to `generator`: isic edits a host copy of the codebook, which is sent before every decode.
template <device_generator G>
class host_mirror {
public:
    using value = typename std::remove_cvref_t<decltype(std::declval<G&>().device_codebook())>::value_type;

    host_mirror(const cuda_backend& gpu, G& model)
        : model_(model), codes_(here().rows(), here().cols()), mirror_(gpu.shared_state(), here(), codes_.span()) {}
    host_mirror(const host_mirror&) = delete;
    host_mirror& operator=(const host_mirror&) = delete;

    matrix<value>& codebook() { return codes_; }
    token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) {
        return model_.generate(prompts, seed);
    }

    auto decode(const token_grid& tokens) {
        send();
        return model_.decode(tokens);
    }

    token_grid redraw(const redraw_request& request)
        requires requires(G& g) {
            { g.redraw(request) } -> std::same_as<token_grid>;
        }
    {
        send();
        return model_.redraw(request);
    }

    auto tuning_loss(const tuning_set& set)
        requires requires(G& g) { g.tuning_loss(set); }
    {
        send();
        return [this, loss = model_.tuning_loss(set)](index_t step, matrix<double>& gradient) mutable -> double {
            send();
            return loss(step, gradient);
        };
    }

    /// Uploads the codebook if it has changed.
    void send() { mirror_.send(here()); }

private:
    device_span<value> here() { return model_.device_codebook(); }

    G& model_;
    matrix<value> codes_;
    codebook_mirror mirror_;
};

}  // namespace cuda::detail

/// `self_improve` for a generator whose codebook lies on a device. The codebook is left there at the best completed round.
///
/// The decisions of the loop, the fit of a round and the edits run on the host, on a copy of the codebook. The copy is uploaded
/// (K d values) before a decode if it has changed. Drawing, decoding and judging, which take most of the time, are the generator's
/// and stay on the device. The report's edit applies to a downloaded copy; to restore the device's codebook, upload the original.
/// Errors: as `self_improve`; cuda_error.
template <device_generator G, judge_of<cuda::detail::host_mirror<G>> J>
self_improve_report self_improve(const cuda_backend& gpu, G& model, J&& judge, const self_improve_options& options) {
    cuda::detail::host_mirror<G> mirror(gpu, model);
    self_improve_report report = self_improve(mirror, judge, options);
    mirror.send();
    return report;
}

}  // namespace isic::inline ISIC_ABI
