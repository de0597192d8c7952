package router

import "time"

// What an answer may have, and how long things may take.
const (
	// maxAnswerHead bounds the head of an app's answer, interim answers included,
	// in bytes. nginx's buffer for it is twice as large.
	maxAnswerHead = 64 << 10
	// connectTimeout bounds a connection attempt to a backend.
	connectTimeout = 2 * time.Second
)
