package wire

import (
	"bytes"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
)

// SubjectRouterActiveApps is the subject on which a router tells which apps were asked for
// since it told last. The payload is no JSON: see EncodeActiveApps.
const SubjectRouterActiveApps = "router.active_apps"

// maxActiveApps bounds a message of SubjectRouterActiveApps when it is unpacked,
// bytes.
const maxActiveApps = 16 << 20

// EncodeActiveApps packs the ids of apps as the original does: a JSON array,
// deflated by zlib.
func EncodeActiveApps(apps []ID) ([]byte, error) {
	if apps == nil {
		apps = []ID{}
	}
	text, err := json.Marshal(apps)
	if err != nil {
		return nil, fmt.Errorf("cannot write active apps: %w", err)
	}
	var packed bytes.Buffer
	w := zlib.NewWriter(&packed)
	_, err = w.Write(text)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot pack active apps: %w", err)
	}
	return packed.Bytes(), nil
}

// ParseActiveApps unpacks a message of SubjectRouterActiveApps.
func ParseActiveApps(data []byte) ([]ID, error) {
	r, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack active apps: %w", err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxActiveApps+1))
	if err != nil {
		return nil, fmt.Errorf("cannot unpack active apps: %w", err)
	}
	if len(text) > maxActiveApps {
		return nil, fmt.Errorf("cannot use active apps of more than %d bytes", maxActiveApps)
	}
	return parse[[]ID](text, "active apps")
}
