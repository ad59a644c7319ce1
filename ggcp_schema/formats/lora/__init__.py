"""llama.cpp's LoRA files of 2023: ggla, an adapter, and ggcl, a checkpoint of finetune."""

from ggcp_schema.formats.file import Format
from ggcp_schema.formats.lora.files import GgclFile, GglaFile
from ggcp_schema.formats.lora.schema import GGCL, GGLA

FORMATS = (
    Format("ggla", b"algg", GGLA, "ggla LoRA adapter", GglaFile),
    Format("ggcl", b"lcgg", GGCL, "ggcl LoRA checkpoint", GgclFile),
)
