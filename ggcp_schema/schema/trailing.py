"""What follows the end of a file, as after a copy that added a line end."""

from ggcp_schema.constructs import Extent, If, Payload, kaitai, stream_end


@kaitai("not _io.eof")
def more_follows(file):
    """Return True if the file does not end here."""
    if file["_building"] or "trailing" in file:
        return file.get("trailing") is not None
    return file["_io"].tell() < stream_end(file["_io"], file)


@kaitai("_io.size - _io.pos")
def bytes_left(file):
    """Return the number of bytes up to the end of the file."""
    if file["_building"]:
        return given_size(file["trailing"])
    return stream_end(file["_io"], file) - file["_io"].tell()


def given_size(data):
    """Return the number of bytes of data from which a file is built."""
    return data.nbytes if isinstance(data, Extent) else memoryview(data).nbytes


TRAILING = "trailing" / If(more_follows, Payload(bytes_left)) * "bytes after the end, which belong to no field"
