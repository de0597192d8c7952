// Package auth signs tokens and paths.
package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/url"
	"strconv"
	"time"
)

// ErrToken refuses a token; why is nobody's business.
var ErrToken = errors.New("the token is not valid")

// Signer makes and checks tokens. Controllers with the same key know each
// other's tokens.
type Signer struct{ key []byte }

// NewSigner signs with a secret.
func NewSigner(key string) Signer { return Signer{key: []byte(key)} }

// Sign makes a token for a user until a time. It holds as long as the password
// hash is the same: a new password ends all tokens.
func (s Signer) Sign(email, passwordHash string, until time.Time) string {
	payload := binary.BigEndian.AppendUint64(nil, uint64(until.Unix()))
	payload = append(payload, email...)
	return base64.RawURLEncoding.EncodeToString(append(payload, s.mac(payload, passwordHash)...))
}

// Owner returns who a token says it is for. It is not checked yet.
func (s Signer) Owner(token string) (email string, err error) {
	payload, _, err := split(token)
	if err != nil {
		return "", err
	}
	return string(payload[8:]), nil
}

// Check says whether a token is valid for its owner, whose present password hash
// is given.
func (s Signer) Check(token, passwordHash string, now time.Time) error {
	payload, mac, err := split(token)
	if err != nil {
		return err
	}
	if !hmac.Equal(mac, s.mac(payload, passwordHash)) || uint64(now.Unix()) >= binary.BigEndian.Uint64(payload) {
		return ErrToken
	}
	return nil
}

// SignPath returns a path of a URL with a query that opens it until a time.
func (s Signer) SignPath(path string, until time.Time) string {
	expires := strconv.FormatInt(until.Unix(), 10)
	return path + "?" + url.Values{"expires": {expires}, "signature": {hex.EncodeToString(s.mac([]byte(expires), path))}}.Encode()
}

// OpensPath reports whether a query opens a path.
func (s Signer) OpensPath(path string, query url.Values, now time.Time) bool {
	expires := query.Get("expires")
	until, err := strconv.ParseInt(expires, 10, 64)
	signature, err2 := hex.DecodeString(query.Get("signature"))
	return err == nil && err2 == nil && hmac.Equal(signature, s.mac([]byte(expires), path)) && now.Unix() < until
}

func split(token string) (payload, mac []byte, err error) {
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(data) < 8+sha256.Size {
		return nil, nil, ErrToken
	}
	n := len(data) - sha256.Size
	return data[:n], data[n:], nil
}

func (s Signer) mac(payload []byte, passwordHash string) []byte {
	mac := hmac.New(sha256.New, s.key)
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(payload))))
	mac.Write(payload)
	mac.Write([]byte(passwordHash))
	return mac.Sum(nil)
}
