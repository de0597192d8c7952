package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// ExportHead is the first line of a file of CreateExport: what the rest of it is.
type ExportHead struct {
	Service string `json:"service"`
	Version string `json:"version"` // of the server
	Size    int64  `json:"size"`    // bytes after the line
	SHA256  string `json:"sha256"`  // of them
}

// Line returns the head as the first line of a file.
func (h ExportHead) Line() ([]byte, error) {
	line, err := json.Marshal(h)
	return append(line, '\n'), err
}

// ParseExportHead reads the first line of a file.
func ParseExportHead(line []byte) (h ExportHead, err error) {
	if err := json.Unmarshal(line, &h); err != nil || h.Service == "" || h.Size < 0 || len(h.SHA256) != 64 {
		return h, errors.New("it is no file of vmc export-service: its first line does not say what it is")
	}
	return h, nil
}

// CreateExport begins to make a snapshot into a file.
func (i ServiceData) CreateExport(ctx context.Context, snapshot string) (j ServiceJob, err error) {
	return j, i.client.call(ctx, true, http.MethodPost, map[string]string{}, &j, i.path("serialized", "url", "snapshots", snapshot)...)
}

// ExportURL returns a URL that opens the file of a snapshot for a while.
func (i ServiceData) ExportURL(ctx context.Context, snapshot string) (string, error) {
	var doc struct{ URL string }
	err := i.client.get(ctx, &doc, i.path("serialized", "url", "snapshots", snapshot)...)
	return doc.URL, err
}

// ReadExport opens the file at a URL of ExportURL. Who has the URL needs no login. The
// caller closes it.
func (i ServiceData) ReadExport(ctx context.Context, from string) (io.ReadCloser, error) {
	at, err := url.Parse(from)
	if err != nil {
		return nil, fmt.Errorf("the cloud gives a URL that is none: %w", err)
	}
	// By the way to the cloud that the user has chosen, which may be another one.
	at.Scheme, at.Host = i.client.target.Scheme, i.client.target.Host
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("cannot ask for the file: %w", err)
	}
	request.Header.Set("User-Agent", "vmc")
	answer, err := i.client.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("cannot read the file: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		defer answer.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 64<<10)) // without it there is the status
		return nil, failure(answer, text)
	}
	return answer.Body, nil
}

// Import sends a file and begins to replace all that is in the service by it. body makes
// it anew for each try, with its length.
func (i ServiceData) Import(ctx context.Context, body func() (io.Reader, int64)) (j ServiceJob, err error) {
	answer, err := i.client.do(ctx, request{
		method: http.MethodPut, path: i.path("serialized", "data"), once: true, body: body,
		// A cloud that refuses it says so before the file is sent.
		header: http.Header{"Content-Type": {"application/octet-stream"}, "Expect": {"100-continue"}},
	})
	if err != nil {
		return j, err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&j); err != nil {
		return j, fmt.Errorf("cannot read the cloud's answer: %w", err)
	}
	return j, nil
}
