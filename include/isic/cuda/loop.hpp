/// \file
/// self_improve with a generator whose codebook lies on a device.
#pragma once

#include <span>
#include <string>
#include <utility>

#include <isic/cuda/matrix.hpp>
#include <isic/loop.hpp>

namespace isic::inline ISIC_ABI {

/// A generator as `generator` asks, whose codebook is on a device: device_codebook() in place of codebook().
///
/// decode() must read device_codebook() as it is at the time of the call, on the backend's stream or ordered after it.
template <class G>
concept device_generator = requires(G& g, std::span<const std::string> prompts, std::uint64_t seed, const token_grid& tokens) {
    requires mutable_device_matrix_like<std::remove_reference_t<decltype(g.device_codebook())>>;
    { g.generate(prompts, seed) } -> std::same_as<token_grid>;
    g.decode(tokens);
};

namespace cuda {

/// A device generator seen as one on the host: isic edits a copy, which goes to the device before every decode.
template <device_generator G>
class on_host {
public:
    using value = typename std::remove_cvref_t<decltype(std::declval<G&>().device_codebook())>::value_type;

    on_host(const cuda_backend& gpu, G& model) : gpu_(gpu), model_(model), codes_(download<value>(gpu, device_view<value>(here()))) {
        sent_ = fingerprint(codes_);
    }

    matrix<value>& codebook() { return codes_; }
    token_grid generate(std::span<const std::string> prompts, std::uint64_t seed) { return model_.generate(prompts, seed); }

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

    /// Brings the device's codebook up to date.
    void send() {
        const std::uint64_t now = fingerprint(codes_);
        if (now != sent_) {
            const device_span<value> to = here();
            const auto size = [](index_t n) { return static_cast<std::size_t>(n) * sizeof(value); };
            copy_to_device(*gpu_.shared_state(), to.data(), size(to.stride()), codes_.data(), size(codes_.cols()), size(codes_.cols()),
                           static_cast<std::size_t>(codes_.rows()));
            sent_ = now;
        }
    }

private:
    device_span<value> here() { return model_.device_codebook(); }

    const cuda_backend& gpu_;
    G& model_;
    matrix<value> codes_;
    std::uint64_t sent_ = 0;
};

}  // namespace cuda

/// `self_improve` for a generator whose codebook lies on a device; it is left there at the best completed round.
///
/// The decisions of the loop, the fit of a round and the edits run on the host, on a copy of the codebook that goes to
/// the device before every decode in which it changed (K d values); drawing, decoding and judging, where the time goes,
/// are the generator's and stay where they are. The report's edit is the host's: apply it to a downloaded copy, or take
/// everything back by uploading the original. Errors: as `self_improve`; cuda_error.
template <device_generator G, judge_of<cuda::on_host<G>> J>
self_improve_report self_improve(const cuda_backend& gpu, G& model, J&& judge, const self_improve_options& options) {
    cuda::on_host<G> mirror(gpu, model);
    self_improve_report report = self_improve(mirror, judge, options);
    mirror.send();
    return report;
}

}  // namespace isic::inline ISIC_ABI
