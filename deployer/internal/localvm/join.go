package localvm

import (
	"io"
	"sync"
)

// halfCloser is a connection whose sending side can be closed alone.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// join copies both ways until both sides have ended, then closes both.
func join(a, b halfCloser) {
	copyTo := func(dst, src halfCloser) {
		if _, err := io.Copy(dst, src); err != nil {
			// One direction is broken: no use in keeping the other.
			_ = dst.Close()
			_ = src.Close()
			return
		}
		_ = dst.CloseWrite()
	}
	var both sync.WaitGroup
	both.Go(func() { copyTo(a, b) })
	both.Go(func() { copyTo(b, a) })
	both.Wait()
	_ = a.Close()
	_ = b.Close()
}
