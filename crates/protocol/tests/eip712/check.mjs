// Computes every digest of vectors/v2/eip712.json with viem, and recovers who signed it. Its last line says how many.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { hashDomain, hashStruct, hashTypedData, recoverAddress } from "viem";

const file = new URL("../../../../vectors/v2/eip712.json", import.meta.url);
const { signed } = JSON.parse(readFileSync(file, "utf8"));

// viem takes numbers of 64 bits as BigInt; bytes and addresses stay hex.
const value = ({ type, value }) => (type.startsWith("uint") ? BigInt(value) : value);

let [digests, signatures, asked] = [0, 0, 0];
for (const one of signed) {
  const { chain_id: chainId, ...named } = one.domain;
  const domain = chainId === null ? named : { ...named, chainId: BigInt(chainId) };
  const domainFields = [
    { name: "name", type: "string" },
    { name: "version", type: "string" },
    ...(chainId === null ? [] : [{ name: "chainId", type: "uint256" }]),
  ];
  const fields = one.fields.map(({ name, type }) => ({ name, type }));
  const types = { EIP712Domain: domainFields, [one.primary_type]: fields };
  const message = Object.fromEntries(one.fields.map((field) => [field.name, value(field)]));
  const typed = { domain, types, primaryType: one.primary_type, message };

  assert.equal(hashDomain(typed), `0x${one.domain_separator}`, one.name);
  assert.equal(hashStruct({ ...typed, data: message }), `0x${one.struct_hash}`, one.name);
  const hash = hashTypedData(typed);
  assert.equal(hash, `0x${one.digest}`, one.name);
  digests += 1;

  const signer = await recoverAddress({ hash, signature: `0x${one.signature}` });
  assert.equal(signer.toLowerCase(), one.signer, one.name);
  signatures += 1;

  // What a wallet would be asked for.
  if (one.typed_data !== null) {
    assert.equal(hashTypedData(JSON.parse(one.typed_data)), hash, one.name);
    asked += 1;
  }
}
console.log(`viem agrees: ${digests} digests, ${signatures} signatures, ${asked} requests to a wallet`);
