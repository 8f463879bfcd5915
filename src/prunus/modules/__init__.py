"""Kinds of layers, and replacements used while a network is traced or cut."""

from prunus.modules.attention import (
    attention_of,
    close_heads_,
    is_packed,
    named_layers,
    open_heads_,
    opened,
    projection_name,
    set_in_projection_,
)
from prunus.modules.checkpoints import without_checkpoints
from prunus.modules.copies import private_copy
from prunus.modules.empty import Empty, can_be_empty, emptied, former_of
from prunus.modules.functional import (
    functional_layer,
    is_functional,
    place_of,
    raw_weights,
    set_functional_,
)
from prunus.modules.kinds import (
    BATCHNORMS,
    CONVOLUTIONS,
    PASSING,
    TRANSPOSED,
    RawAxis,
    channel_count,
    exchange_,
    has_own_forward,
    input_columns,
    is_depthwise,
    is_mixing,
    is_written_norm,
    module_at,
    quotas,
    set_input_columns_,
    shared_layers,
)
from prunus.modules.products import PRODUCTS, Products
from prunus.modules.scripts import OPAQUE, Scripted
from prunus.modules.select import SelectLinear, can_select, read_all_, select_, widen
from prunus.modules.uncalled import Calling, calling, plain_attention
from prunus.modules.wrappers import unwrapped

__all__ = [
    "BATCHNORMS",
    "CONVOLUTIONS",
    "OPAQUE",
    "PASSING",
    "PRODUCTS",
    "TRANSPOSED",
    "Calling",
    "Empty",
    "Products",
    "RawAxis",
    "Scripted",
    "SelectLinear",
    "attention_of",
    "calling",
    "can_be_empty",
    "can_select",
    "channel_count",
    "close_heads_",
    "emptied",
    "exchange_",
    "former_of",
    "functional_layer",
    "has_own_forward",
    "input_columns",
    "is_depthwise",
    "is_functional",
    "is_mixing",
    "is_packed",
    "is_written_norm",
    "module_at",
    "named_layers",
    "open_heads_",
    "opened",
    "place_of",
    "plain_attention",
    "private_copy",
    "projection_name",
    "quotas",
    "raw_weights",
    "read_all_",
    "select_",
    "set_functional_",
    "set_in_projection_",
    "set_input_columns_",
    "shared_layers",
    "unwrapped",
    "widen",
    "without_checkpoints",
]
