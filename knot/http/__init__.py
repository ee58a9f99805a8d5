"""HTTP itself: bytes to requests, requests to responses (RFC 9110, 9112, 9113).

No sockets, no waiting: what was read goes in, what is to be sent comes out.  Files are found by
`knot.files`, and sent by `knot.models`.
"""
