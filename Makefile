# The front door. Each line calls a script or a tool.
.PHONY: test
test:
	cargo fmt -p fabstir-protocol -p fabstir-client -p fabstir-llm-node -p fabstir-cli --check
	cargo clippy -p fabstir-protocol --all-targets -- -D warnings
	cargo test -p fabstir-protocol
