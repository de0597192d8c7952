package rabbitmqnode

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// administrator is the node's own user. No instance can have one of that name: it has
// a space.
const administrator = "node administrator"

// hashing says how the server keeps passwords: a salt of four bytes, and SHA-256 of salt
// and password.
const hashing = "rabbit_password_hashing_sha256"

// hashed returns a password as the server keeps it. Passwords themselves are not sent
// to it and are in none of its files.
func hashed(password string) (string, error) {
	salt := make([]byte, 4)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("cannot make a salt: %w", err)
	}
	sum := sha256.Sum256(append(bytes.Clone(salt), password...))
	return base64.StdEncoding.EncodeToString(append(salt, sum[:]...)), nil
}

// management is the HTTP API of a server, on the loopback.
type management struct {
	at       string // http://127.0.0.1:PORT
	password string
	client   *http.Client
}

func newManagement(port int, password string) *management {
	return &management{
		at: fmt.Sprintf("http://127.0.0.1:%d", port), password: password,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: 10 * time.Second}},
	}
}

const maxAnswer = 1 << 20 // bytes of an answer that are read

// ask sends a request and returns the status and the answer. Each part of the path is
// escaped.
func (m *management) ask(ctx context.Context, method string, body any, path ...string) (int, []byte, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return 0, nil, fmt.Errorf("cannot write a request to the server: %w", err)
		}
	}
	at := m.at + "/api"
	for _, part := range path {
		at += "/" + url.PathEscape(part)
	}
	request, err := http.NewRequestWithContext(ctx, method, at, bytes.NewReader(text))
	if err != nil {
		return 0, nil, fmt.Errorf("cannot write a request to the server: %w", err)
	}
	request.SetBasicAuth(administrator, m.password)
	request.Header.Set("Content-Type", "application/json")
	response, err := m.client.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot ask the server: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("cannot read the server's answer: %w", err)
	}
	return response.StatusCode, answer, nil
}

func (m *management) put(ctx context.Context, body map[string]any, path ...string) error {
	status, answer, err := m.ask(ctx, http.MethodPut, body, path...)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("the server does not make %s: %d, %.200s", strings.Join(path, "/"), status, answer)
	}
	return err
}

// remove removes something that may be gone already.
func (m *management) remove(ctx context.Context, path ...string) error {
	status, answer, err := m.ask(ctx, http.MethodDelete, nil, path...)
	if err == nil && status/100 != 2 && status != http.StatusNotFound {
		err = fmt.Errorf("the server does not remove %s: %d, %.200s", strings.Join(path, "/"), status, answer)
	}
	return err
}

// check says why the server does not serve apps, or nil.
func (m *management) check(ctx context.Context, port string) error {
	status, answer, err := m.ask(ctx, http.MethodGet, nil, "health", "checks", "port-listener", port)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the server does not serve apps: %d, %.200s", status, answer)
	}
	return err
}
