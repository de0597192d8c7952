package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/clusterworks/deploy/jobs/wire"
)

// Files with what is in an instance pass through the gateway piece by piece: it holds one
// piece of each, and asks for the next when that is gone.

const (
	// pieceTime bounds how long a client may take for a piece.
	pieceTime = time.Minute
	// pieceAway is the time that a node may be away, restarting for example, before a file that
	// is being read ends.
	pieceAway = time.Minute
	pieceWait = 500 * time.Millisecond
)

// stream lets in who has the token, and answers with what h has written, or its error.
func (g api) stream(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := g.mayAsk(r)
		if err == nil {
			err = h(w, r)
		}
		if err != nil {
			g.answer(w, r, nil, err)
		}
	})
}

// askAboutFile asks the node of the instance in the path.
func (g api) askAboutFile(ctx context.Context, operation string, r wire.SerializedRequest) (wire.SerializedAnswer, error) {
	doc, err := json.Marshal(r)
	if err == nil {
		_, err = wire.ParseSerializedRequest(doc)
	}
	if err != nil {
		return wire.SerializedAnswer{}, wire.Failure(wire.ServiceMalformed, "Malformed request: %v", err)
	}
	h, known, err := g.find(ctx, func(h handles) (wire.ServiceHandle, bool) { return h.instance(r.InstanceID) })
	if err != nil {
		return wire.SerializedAnswer{}, err
	}
	if !known {
		return wire.SerializedAnswer{}, errNotFound("instance")
	}
	data, err := g.askRaw(ctx, h.Credentials.NodeID(), operation, r)
	if err != nil {
		return wire.SerializedAnswer{}, err
	}
	answer, err := wire.ParseSerializedAnswer(data)
	if err == nil && !answer.Success {
		err = answer.Error
	}
	return answer, err
}

// servedSerialize begins to make a snapshot into a file.
func (g api) servedSerialize(c *call) (any, error) {
	answer, err := g.askAboutFile(c.ctx, wire.ServiceSerialize, wire.SerializedRequest{InstanceID: c.PathValue("instance"), SnapshotID: c.PathValue("snapshot")})
	return answer.Job, err
}

// servedFile sends a file: a line that says what it is, and its bytes.
func (g api) servedFile(w http.ResponseWriter, r *http.Request) error {
	request := wire.SerializedRequest{InstanceID: r.PathValue("instance"), SnapshotID: r.PathValue("snapshot")}
	piece, err := g.askAboutFile(r.Context(), wire.ServiceReadPiece, request)
	if err != nil {
		return err
	}
	if piece.Head == nil {
		return errors.New("a node has answered without saying what the file is")
	}
	head := *piece.Head
	line, err := head.Line()
	if err != nil {
		return fmt.Errorf("cannot write a file's first line: %w", err)
	}
	g.count(http.StatusOK)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(int64(len(line))+head.Size, 10))
	slow := http.NewResponseController(w)
	data := append(line, piece.Data...)
	for request.Offset = int64(len(piece.Data)); ; request.Offset += int64(len(data)) {
		if err := slow.SetWriteDeadline(time.Now().Add(pieceTime)); err != nil {
			return fmt.Errorf("cannot bound a connection: %w", err)
		}
		if _, err := w.Write(data); err != nil {
			return nil // the client has gone
		}
		if request.Offset >= head.Size {
			return nil
		}
		piece, err := g.readPiece(r.Context(), request)
		if err == nil && (len(piece.Data) == 0 || piece.Head == nil || *piece.Head != head) {
			err = errors.New("the file changed while it was read")
		}
		if err != nil {
			g.base.Log().Warn("a file was not sent whole", "instance", request.InstanceID, "snapshot", request.SnapshotID, "error", err)
			panic(http.ErrAbortHandler) // the client must not take what it has for the file
		}
		data = piece.Data
	}
}

// readPiece asks for a piece until the node answers, which may begin again meanwhile.
func (g api) readPiece(ctx context.Context, request wire.SerializedRequest) (wire.SerializedAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, pieceAway)
	defer cancel()
	for {
		piece, err := g.askAboutFile(ctx, wire.ServiceReadPiece, request)
		var failure *wire.ServiceFailure
		if err == nil || !errors.As(err, &failure) || failure.Msg.Code != wire.ServiceGatewayTimeout {
			return piece, err
		}
		select {
		case <-ctx.Done():
			return piece, err
		case <-time.After(pieceWait):
		}
	}
}

// servedImport takes a file and begins to put it in the place of what is in an instance.
func (g api) servedImport(w http.ResponseWriter, r *http.Request) error {
	body := &patient{r.Body, http.NewResponseController(w)}
	job, err := g.importFile(r, bufio.NewReaderSize(body, wire.MaxSerializedHead))
	if err != nil {
		// Who still sends would find the connection closed, and not see why.
		_, _ = io.Copy(io.Discard, io.LimitReader(body, maxDrained))
		return err
	}
	g.answer(w, r, job, nil)
	return nil
}

// maxDrained is the number of bytes that are read of a file that is refused.
const maxDrained = 4 << 30

// patient reads a request's body for as long as something comes.
type patient struct {
	io.Reader
	connection *http.ResponseController
}

func (p *patient) Read(data []byte) (int, error) {
	if err := p.connection.SetReadDeadline(time.Now().Add(pieceTime)); err != nil {
		return 0, fmt.Errorf("cannot bound a connection: %w", err)
	}
	return p.Reader.Read(data)
}

func (g api) importFile(r *http.Request, body *bufio.Reader) (*wire.ServiceJob, error) {
	ctx := r.Context()
	line, _ := body.ReadSlice('\n') // what is no line is no head
	head, err := wire.ParseSerializedHead(line)
	if err != nil {
		return nil, wire.Failure(wire.ServiceMalformed, "%v", err)
	}
	request := wire.SerializedRequest{InstanceID: r.PathValue("instance"), Head: &head}
	begun, err := g.askAboutFile(ctx, wire.ServiceBeginUpload, request)
	if err != nil {
		return nil, err
	}
	request.Head, request.UploadID = nil, begun.UploadID
	piece := make([]byte, wire.MaxSerializedPiece)
	for {
		n, err := io.ReadFull(body, piece)
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return nil, wire.Failure(wire.ServiceMalformed, "the file did not arrive whole: nothing came for a minute, or the connection ended")
		}
		if n > 0 {
			request.Data = piece[:n]
			if _, err := g.askAboutFile(ctx, wire.ServiceWritePiece, request); err != nil {
				return nil, err
			}
			request.Offset += int64(n)
		}
		if ended {
			break
		}
	}
	request.Data, request.Offset = nil, 0
	answer, err := g.askAboutFile(ctx, wire.ServiceImportFile, request)
	return answer.Job, err
}
