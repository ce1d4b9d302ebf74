# Many requests at once, and one of them.


@cython.boundscheck(True)  # off elsewhere in this module, also for lists
def _first_row(X):
    """The first row of many, to learn what a request looks like."""
    try:
        if hasattr(X, "keys"):
            return {key: X[key][0] for key in X.keys()}
        if isinstance(X, tuple):
            parts = [part[0] for part in X]
            return X._make(parts) if hasattr(X, "_make") else tuple(parts)
        return X[0]
    except (IndexError, KeyError, TypeError) as error:
        raise InputError(f"expected rows along a leading axis, got {_describe(X)}",
                         expected="rows along a leading axis", given=_describe(X)) from error


cdef object _structured(Schema schema, object prepared):
    """A prepared request as its caller would write it."""
    if schema.kind == ONE:
        return prepared
    if schema.row_type is not None:
        return schema.row_type._make(prepared)
    return prepared if schema.kind == TUPLE else dict(zip(schema.keys, prepared))


cdef object _row_of(Schema schema, object prepared, uint32_t row):
    """Row `row` of many that were prepared together; one array for each leaf."""
    if schema.kind == ONE:
        return prepared[row, ...] if prepared.ndim > 1 else prepared[row:row + 1].reshape(())
    return tuple([part[row, ...] if part.ndim > 1 else part[row:row + 1].reshape(())
                  for part in prepared])


cdef list _ragged_rows(Schema schema, object X):
    """Many requests of ragged rows, prepared one by one: for each leaf a sequence of rows."""
    if schema.kind == MAPPING and not hasattr(X, "keys"):
        raise schema.structure_error(X)
    try:
        if schema.kind == ONE:
            rows = list(X)
        elif schema.kind == TUPLE:
            rows = list(zip(*X, strict=True))
        else:
            keys = list(X.keys())  # each row has them all, and is refused if they are not right
            rows = [dict(zip(keys, parts))
                    for parts in zip(*[X[key] for key in keys], strict=True)]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"expected as many rows for each part of a request, got {_describe(X)}: {error}",
            expected="equal numbers of rows", given=_describe(X)) from error
    return [schema.prepare(row, 0) for row in rows]
