package ssh

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync/atomic"

	"github.com/pkg/sftp"
)

// What a host may say at most, in bytes: one that lies fills neither our memory
// nor the operator's screen.
const (
	maxOutput = 1 << 20 // of a command whose output is parsed
	maxText   = 2 << 10 // of an error that quotes the host
	maxSignal = 32      // of a signal's name
	// maxAnswers is for one operation with files, however small: a folder of
	// 10,000 files is listed in less.
	maxAnswers = 4 << 20
	// bytesAnswered is the number of bytes of a file that are written for each byte of answer.
	// An answer has less than 128 bytes and is for 32 KiB.
	bytesAnswered = 256
	// maxAllowance is for all operations together, whatever earlier ones left unused.
	maxAllowance = 16 * maxAnswers
)

var errOutput = fmt.Errorf("it writes more than the %d KiB that it may", maxOutput>>10)

// bounded keeps what is written to it, up to maxOutput; what would be more is
// refused after full was called. The buffer is not embedded: io.Copy would find its
// ReadFrom, which has no bound.
type bounded struct {
	kept bytes.Buffer
	full func()
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.kept.Len()+len(p) > maxOutput {
		b.full()
		return 0, errOutput
	}
	return b.kept.Write(p)
}

func (b *bounded) String() string { return b.kept.String() }

// files is an SFTP session, with an allowance for its answers.
type files struct {
	*sftp.Client
	answers *allowance
}

// openFiles begins SFTP over two pipes. giveUp is called with the reason if the
// host says more than it may; it must end answers.
func openFiles(answers io.Reader, requests io.WriteCloser, giveUp func(error)) (*files, error) {
	bounded := &allowance{r: answers, giveUp: giveUp}
	bounded.allow(0)
	// Many writes under way at once: else each 32 KiB costs a round trip.
	client, err := sftp.NewClientPipe(bounded, requests, sftp.UseConcurrentWrites(true))
	if err != nil {
		return nil, err
	}
	return &files{client, bounded}, nil
}

// allowance is a reader that ends when more comes than was allowed.
type allowance struct {
	r      io.Reader
	giveUp func(error)
	left   atomic.Int64
}

// allow adds what an operation that writes size bytes can need.
func (a *allowance) allow(size int64) {
	if a.left.Add(maxAnswers+size/bytesAnswered) > maxAllowance {
		a.left.Store(maxAllowance)
	}
}

func (a *allowance) Read(p []byte) (int, error) {
	n, err := a.r.Read(p)
	if a.left.Add(-int64(n)) < 0 {
		err = fmt.Errorf("the host answers with more than the %d MiB that it may", maxAnswers>>20)
		a.giveUp(err)
		return 0, err
	}
	return n, err
}

// brief is an error whose text, which the host may have chosen, is cut.
type brief struct{ err error }

func (b brief) Error() string { return cut(b.err.Error(), maxText) }

func (b brief) Unwrap() error { return b.err }

// cut returns a text of at most max bytes, with a sign that there was more.
func cut(text string, max int) string {
	if len(text) <= max {
		return text
	}
	return strings.ToValidUTF8(text[:max], "") + " ..."
}
