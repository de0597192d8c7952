package component

import (
	"io"
	"net/http"
)

// controlHandler answers the agent; README.md is the contract.
func (c *Component) controlHandler() http.Handler {
	answer := func(w http.ResponseWriter, err error, status int) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if err != nil {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, err.Error()+"\n")
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if facts := c.options.Facts; facts != nil {
			for name, value := range facts() {
				w.Header().Add("Deploy-Fact", name+"="+value)
			}
		}
		answer(w, c.Ready(), http.StatusServiceUnavailable)
	})
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		answer(w, c.Drain(r.Context()), http.StatusInternalServerError)
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, c.Reload(), http.StatusInternalServerError)
	})
	return mux
}
