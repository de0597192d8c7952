package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/clusterworks/deploy/agent/api"
)

// maxRequest bounds a request's body; a spec with all its files is the largest.
const maxRequest = 64 << 20

// HTTP serves the handlers as POST /v1/<method>.
func HTTP(handlers map[api.Method]Handler) http.Handler {
	mux := http.NewServeMux()
	for method, handle := range handlers {
		mux.HandleFunc("POST /v1/"+string(method), func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
			if err != nil {
				refusal := &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("cannot read the request: %v", err)}
				if tooLarge := (*http.MaxBytesError)(nil); !errors.As(err, &tooLarge) {
					return // the caller is gone
				}
				writeError(w, refusal)
				return
			}
			reply, refusal := handle(r.Context(), body)
			if refusal != nil {
				writeError(w, refusal)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			w.Write(reply)
		})
	}
	return mux
}

func writeError(w http.ResponseWriter, e *api.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status(e.Code))
	json.NewEncoder(w).Encode(e)
}

// status is for people with curl; programs read the code.
func status(c api.Code) int {
	switch c {
	case api.CodeBadRequest:
		return http.StatusBadRequest
	case api.CodeNotFound:
		return http.StatusNotFound
	case api.CodeStaleEpoch, api.CodeConflict, api.CodeOtherDeployment, api.CodeIrreversible:
		return http.StatusConflict
	case api.CodePackageMissing, api.CodeSystemPackage, api.CodeInterrupted, api.CodeCancelled, api.CodeFailed:
		return http.StatusUnprocessableEntity
	}
	return http.StatusInternalServerError
}
