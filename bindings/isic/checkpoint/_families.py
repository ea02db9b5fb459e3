# SPDX-License-Identifier: Apache-2.0
"""Codebook conventions of published models, as data: keys, assignment, readers, and the limits of an edit."""

from __future__ import annotations

from dataclasses import dataclass

from .._typing import Metric


@dataclass(frozen=True)
class Family:
    """One convention for storing a codebook. Keys are regular expressions that match the end of a key at a dot."""

    name: str
    """Name in `isic inspect`."""
    key: str
    """Key of the codebook; a group `level` numbers residual levels."""
    metric: Metric = "l2"
    """How a decoder reads a row."""
    assignment: str = "nearest row"
    """How the model assigns a code to a vector."""
    beside: str = ""
    """A key that the checkpoint must have too."""
    without: str = ""
    """A key that the checkpoint must not have."""
    padding_row: bool = False
    """Whether the last row is padding."""
    divided_by: str = ""
    """A neighbour [K] that the stored sums are divided by to give the codes."""
    input_tables: str = ""
    """Tables of the same shape that a transformer reads instead; not edited."""
    readers: str = "the decoder"
    """The parts of the model that read the rows."""
    caution: str = ""
    """Limits of an edit of the rows."""
    refusal: str = ""
    """Why the rows cannot be edited; empty: they can."""


_ENCODER = "the decoder, and the encoder's nearest-code search: encode with the original, decode with the edited"
_TRANSFORMER = "the decoder, the encoder's nearest-code search and the transformer's input: encode and feed with the original, decode with the edited"
_FREE = "there is no free codebook: codes are {}; project the subspace out of the first linear layer after the quantiser instead"

SUMS = r"_?(embed_avg|embed_ema|ema_w|embedding_sum|embed_sum)"
"""Running sums of training, [K, d], from which the next step would restore the old rows."""

FAMILIES = (
    Family("Janus", r"gen_vision_model\.quantize\.embedding\.weight", "cosine", "nearest direction",
           input_tables=r"gen_embed\.weight",
           readers="the decoder; the language model has its own table, understanding its own encoder"),
    Family("Janus (transformers)", r"vqmodel\.quantize\.embedding\.weight", "cosine", "nearest raw row; decoding normalises",
           beside=r"generation_embeddings\.weight", input_tables=r"generation_embeddings\.weight",
           readers="the decoder; the language model has its own table, understanding its own encoder"),
    Family("Emu3", r"quantize\.embedding\.weight", beside=r"post_quant_conv\.conv\.weight", readers=_ENCODER,
           caution="the decoder reads codes twice, the second time through a stack that mixes channels: the rows leave the subspace, the "
                   "decoder's features may not"),
    Family("GLM-Image", r"vqmodel\.quantize\.embedding\.weight", "cosine", "nearest direction", beside=r"visual\..*",
           without=r"vqmodel\.encoder\..*", readers="the tokeniser of input images",
           caution="no decoder of pixels is stored here: an edit changes how images are encoded, not generated images"),
    Family("Chameleon (transformers)", r"vqmodel\.quantize\.embedding\.weight", readers="the encoder's nearest-code search",
           caution="no decoder of pixels is stored here: apply the same subspace to the vqgan checkpoint with the decoder"),
    Family("VILA-U", r"quantizer\.codebooks\.(?P<level>\d+)\.weight", padding_row=True, readers=_TRANSFORMER),
    Family("UniTok", r"quantizer\.codebooks\.\d+\.codebook\.weight", "cosine", "largest cosine", readers=_TRANSFORMER,
           caution="one of several sub-codebooks, each with a subspace of its own; the language model's checkpoint holds a second copy "
                   "(edit both with --also)"),
    Family("TokenFlow, pixel half", r"quantize\.embedding_vqgan\.weight", "cosine", "nearest in both halves", readers=_TRANSFORMER,
           caution="the semantic half with the same ids is not edited"),
    Family("TokenFlow, semantic half", r"quantize\.embedding_vqkd\.weight", "cosine", "nearest in both halves", readers=_TRANSFORMER,
           caution="pixels are decoded from the other half"),
    Family("VAR", r"quantize\.embedding\.weight", beside=r"quantize\.(ema_vocab_hit_SV|quant_resi\..*)", readers=_TRANSFORMER,
           caution="convolutions (phi) mix the channels of each scale before the decoder: the rows leave the subspace, their sum may not"),
    Family("LlamaGen", r"quantize\.embedding\.weight", "cosine", "nearest direction", beside=r"quantize\.codebook_used",
           readers="the decoder; the transformer has its own table"),
    Family("TiTok", r"quantize\.embedding\.weight", "cosine", "nearest direction", beside=r"latent_tokens", readers="the decoder"),
    Family("VQGAN", r"quantize\.embedding\.weight", assignment="nearest row (IBQ: largest inner product)", readers=_ENCODER),
    Family("VQGAN, Gumbel", r"quantize\.embed\.weight", assignment="argmax of a projection", beside=r"quantize\.proj\.weight",
           readers="the decoder"),
    Family("VQ-VAE with EMA", r"_embedding\.weight", beside=r"_ema_w", readers=_ENCODER),
    Family("lucidrains, affine", r"_codebook\.embed", beside=r"_codebook\.codebook_mean", assignment="nearest row after a learnt affine map",
           refusal="codes are an affine map of the stored rows (codebook_mean, codebook_variance): fold the map into the rows first"),
    Family("EnCodec", r"(layers\.(?P<level>\d+)\.)?_?codebook\.embed", beside=r"_?codebook\.inited"),
    Family("lucidrains", r"(layers\.(?P<level>\d+)\.)?_codebook\.embed", assignment="nearest row, or largest cosine", readers=_TRANSFORMER),
    Family("Moshi / Mimi", r"(layers\.(?P<level>\d+)\.)?_?codebook\.(embedding_sum|embed_sum)", divided_by="cluster_usage",
           readers="the decoder and the encoder's nearest-code search; the language model has its own tables",
           caution="sums are stored, codes are sums / cluster_usage: drop the cached codes of a model that is already loaded"),
    Family("SimVQ", r"frozen_codebook", assignment="nearest row after a learnt linear map",
           refusal="the codes are code_transform(frozen_codebook): project the subspace out of code_transform's output instead"),
    Family("LFQ (Show-o)", r"quantize\.embedding", beside=r"quantize\.power_vals", assignment="signs", refusal=_FREE.format("sign vectors")),
    Family("LFQ or BSQ", r"\w*(quant|lfq|bsq|vq)\w*\.mask", assignment="signs", refusal=_FREE.format("signs of the encoder's output")),
    Family("FSQ", r"\w*(quant|fsq)\w*\.(_levels|_basis|implicit_codebook)", assignment="rounding", refusal=_FREE.format("grid points")),
)

GUESS = Family("found by shape", r".*(codebook|code_book|quanti[sz]|\bvq).*", assignment="unknown",
               readers="unknown: see the model's code",
               caution="the key belongs to no known family: check that rows are codes, and pass --metric cosine if the decoder normalises them")
