package router

import "time"

// What requests and answers may have, and how long things may take: one row each
// of jobs/nginx/LIMITS.md, which has nginx's beside them.
const (
	// maxLine bounds the request line and each line of a request's head, in bytes;
	// nginx has the same. maxHead and maxLines bound the head.
	maxLine  = 32 << 10
	maxHead  = 128 << 10
	maxLines = 500
	// maxHops bounds how often a request may come back to the routers.
	maxHops = 10
	// maxAnswerHead bounds the head of an app's answer, interim answers included,
	// in bytes. nginx's buffer for it is twice as large.
	maxAnswerHead = 64 << 10
	// connectTimeout bounds a connection attempt to a backend.
	connectTimeout = 2 * time.Second
	// maxURIs bounds the URIs of a registration.
	maxURIs = 1000
)
