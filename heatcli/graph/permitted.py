"""Which operators an artifact may call: those that compute tensors and numbers from tensors and numbers.

One list for every format and for stored graphs, checked before anything is loaded or run. The check reads the
operator's schema (no storages, streams, futures, remote references or objects). The names below cover what a schema
does not show.
"""

from __future__ import annotations

import functools
import re

import torch

from heatcli.system.torch_private import load_decomposed, schemas_of

_PLAIN = re.compile(
    r"Tensor|int|float|bool|number|complex|str|Device|QScheme|Generator|Any|AnyEnumType|t\d?|[kt]Val|"
    r"__torch__\.torch\.classes\.(rnn\.CellParamsBase|quantized\.\w+)"
)
_CONTAINER = re.compile(r"(?:List|Optional|Tuple|Dict)\[|\]|, ")
# File access, standard output, torch's global state, gradients, and views of memory without bounds checks.
_OUTSIDE = frozenset(
    """from_file save backward get_gradients retain_grad set set_ set_data set_grad_enabled manual_seed seed
    initial_seed shallow_copy_data_ pin_memory sparse_resize sparse_resize_and_clear copy_sparse_to_sparse
    copy_sparse_to_sparse_""".split()
)
# Permitted operators with a leading underscore. The others are internal to torch and often check nothing.
_INTERNAL = frozenset(
    """_adaptive_avg_pool2d _adaptive_avg_pool3d _add_relu _add_relu_ _addmm_activation _aminmax _assert_async
    _assert_scalar _assert_tensor_metadata _batch_norm_impl_index _batch_norm_no_update _batch_norm_with_update
    _cast_Byte _cast_Char _cast_Double _cast_Float _cast_Half _cast_Int _cast_Long _cast_Short _cdist_forward _conj
    _conj_physical _conv_depthwise2d _convolution _convolution_mode _dim_arange _euclidean_dist _fft_c2c _fft_c2r
    _fft_r2c _functional_assert_async _functional_assert_scalar _functional_sym_constrain_range
    _functional_sym_constrain_range_for_size _fused_dropout _fused_rms_norm _fused_sdp_choice _get_tracing_state
    _infer_size _int_mm _is_all_true _is_any_true _is_tracing _linalg_check_errors _linalg_det _linalg_eigh
    _linalg_eigvals _linalg_slogdet _linalg_solve_ex _linalg_svd _list_to_tensor _local_scalar_dense _log_softmax
    _logcumsumexp _lu_with_info _masked_softmax _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _native_multi_head_attention _neg_view _nested_tensor_from_mask
    _nested_tensor_from_mask_left_aligned _no_grad_fill_ _no_grad_normal_ _no_grad_uniform_
    _no_grad_zero_ _nnpack_available _nnpack_spatial_convolution _pack_padded_sequence
    _pad_packed_sequence _pad_circular _pad_enum _pdist_forward _prelu_kernel _safe_softmax
    _scaled_dot_product_attention_math _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_flash_attention_for_cpu _scaled_mm _set_item _shape_as_tensor _size_if_not_equal _softmax
    _stack _standard_gamma _tensor_to_list _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy _to_cpu
    _transform_bias_rescale_qkv _transformer_encoder_layer_fwd _trilinear _unique _unique2 _unsafe_index
    _unsafe_view _unwrap_optional _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
    _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d _weight_int8pack_mm _weight_norm
    _weight_norm_interface""".split()
)
_PRIM = frozenset(
    """BroadcastMKLDNNTensors ChunkSizes ConstantChunk ConstantMKLDNNTensor EnumName EnumValue MKLDNNClamp MKLDNNClamp_
    MKLDNNHardSigmoid MKLDNNHardSigmoid_ MKLDNNHardSwish MKLDNNHardSwish_ MKLDNNHardTanh MKLDNNHardTanh_
    MKLDNNLayerNorm MKLDNNLayerNorm_ MKLDNNScalarMul MKLDNNScalarMul_ NumToTensor RaiseException StringIndex TupleIndex
    TupleUnpack Uninitialized VarConcat VarStack abs data device dtype grad index is_cpu is_cuda is_ipu is_maia is_meta
    is_mkldnn is_mps is_mtia is_nested is_quantized is_sparse is_sparse_csr is_vulkan is_xla is_xpu isinstance itemsize
    layout max min mkldnn_convolution name nbytes rangelist requires_grad tolist type unchecked_cast
    unchecked_unwrap_optional""".split()
)
_OTHERS = {
    "torchvision": frozenset("nms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d box_iou_rotated".split()),
    "prim": _PRIM,
}
_BY_SCHEMA = ("aten", "prims", "quantized", "quantized_decomposed")


@functools.cache
def permitted(library: str, name: str) -> bool:
    """Whether an artifact may call the operator `library::name`, in any overload.

    Operators unknown to torch are not permitted.
    """
    if library in _OTHERS:
        return name in _OTHERS[library]
    if library not in _BY_SCHEMA or name in _OUTSIDE or name.endswith("_backward") or name.startswith("_test"):
        return False
    if name.startswith("_") and not name.startswith("__") and library == "aten" and name not in _INTERNAL:
        return False
    if library == "quantized_decomposed":
        load_decomposed()
    schemas = schemas_of(f"{library}::{name}")
    return bool(schemas) and all(map(_plain, schemas))


@functools.cache
def is_operator(name: str) -> bool:
    """Whether ATen has an operator of that name. TorchScript also calls these as tensor methods."""
    return bool(schemas_of(f"aten::{name}"))


def _plain(schema: torch.FunctionSchema) -> bool:
    """Whether all arguments and results are tensors, numbers, text and containers of these."""
    types = (str(x.type) for x in (*schema.arguments, *schema.returns))
    return all(_PLAIN.fullmatch(part) for kind in types for part in _CONTAINER.split(kind) if part)
